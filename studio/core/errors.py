"""Errors that say what happened, why, and what to do next.

    StudioError                     code            exit  HTTP
    ├── InvalidInput                invalid_input   2     400   the request or the file is not well formed
    ├── NotFound                    not_found       3     404   no such model, version, alias, job
    ├── Conflict                    conflict        4     409   it exists already, or is busy
    ├── Refused                     refused         5     422   understood, and not done: unsafe, unsupported, gate
    │   ├── NeedsExtra              needs_extra     5     422   an optional dependency is missing
    │   ├── NeedsEnvironment        needs_environment 5   422   a converter environment has to be made first
    │   └── Waiting                                           the user has to say something first; the job waits for it
    │       ├── NeedsTrust          needs_trust     5     422   loading it would run code
    │       ├── NeedsSettings       needs_settings  5     422   the file does not tell what a model takes
    │       └── NeedsModel          needs_model     5     422   what belongs to a model lies there without one
    ├── Unavailable                 unavailable     6     503   no engine, no server, not ready yet
    ├── Denied                      denied          7     403   no token, foreign Host or Origin
    ├── StepFailed                  step_failed     8     500   a worker crashed, hung or hit a limit
    └── Cancelled                   cancelled       9     409   the user stopped it

Exit code 1 is an error that Studio did not foresee; 2 is also what the command line says of bad usage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studio.core.tensors import TensorSpec


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """A file that runs code when it is loaded: `sha256` of its content, and what it would import or call."""

    name: str
    sha256: str
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An error as a value: what the API returns, a failed job keeps, and every face shows.

    `code_files`: what NeedsTrust asks about. `missing_inputs`: inputs whose shapes NeedsSettings asks for; `hints`:
    what is known of them, to begin the answer with. `environment`: the one that NeedsEnvironment names.
    """

    code: str
    what: str
    why: str = ""
    fix: str = ""
    code_files: tuple[CodeFile, ...] = ()
    missing_inputs: tuple[str, ...] = ()
    hints: tuple[TensorSpec, ...] = ()
    environment: str = ""

    def sentence(self) -> str:
        """All three parts on one line."""
        return " ".join(part for part in (self.what, self.why, self.fix) if part)


class StudioError(Exception):
    """Base of every foreseen error. `what` happened, `why`, and the `fix`: what to do now."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code_files: tuple[CodeFile, ...] = ()
    missing_inputs: tuple[str, ...] = ()
    hints: tuple[TensorSpec, ...] = ()
    environment: str = ""

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return self.problem.sentence()

    @property
    def problem(self) -> Problem:
        return Problem(
            code=self.code,
            what=self.what,
            why=self.why,
            fix=self.fix,
            code_files=self.code_files,
            missing_inputs=self.missing_inputs,
            hints=self.hints,
            environment=self.environment,
        )


class InvalidInput(StudioError):
    code = "invalid_input"
    exit_code = 2
    http_status = 400


class NotFound(StudioError):
    code = "not_found"
    exit_code = 3
    http_status = 404


class Conflict(StudioError):
    code = "conflict"
    exit_code = 4
    http_status = 409


class Refused(StudioError):
    code = "refused"
    exit_code = 5
    http_status = 422


class NeedsExtra(Refused):
    code = "needs_extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            what,
            f"This needs the optional extra '{extra}', which is not installed.",
            f"Run: pip install 'ort-studio[{extra}]', then retry the job (r in the Inbox, or: studio jobs --retry ID).",
        )


class NeedsEnvironment(Refused):
    """The engine makes the environment and runs the task again in it. `environment`: see pipeline.environments."""

    code = "needs_environment"

    def __init__(self, what: str, environment: str) -> None:
        super().__init__(what, f"Converting it needs the converter environment '{environment}'.")
        self.environment = environment


class Waiting(Refused):
    """Nothing is wrong: the job waits until the user has said something."""


class NeedsTrust(Waiting):
    code = "needs_trust"

    def __init__(self, code_files: tuple[CodeFile, ...], why: str = "") -> None:
        names = " and ".join(f"'{file.name}'" for file in code_files)
        super().__init__(
            f"{names} would run code when it is loaded.",
            why,
            "If you know where it comes from, say yes once: studio trust JOB, or a in the Inbox.",
        )
        self.code_files = code_files


class NeedsSettings(Waiting):
    code = "needs_settings"

    def __init__(
        self,
        what: str,
        missing_inputs: tuple[str, ...],
        why: str = "",
        fix: str = "",
        hints: tuple[TensorSpec, ...] = (),
    ) -> None:
        super().__init__(what, why, fix)
        self.missing_inputs = missing_inputs
        self.hints = hints


class NeedsModel(Waiting):
    code = "needs_model"


class Unavailable(StudioError):
    code = "unavailable"
    exit_code = 6
    http_status = 503


class Denied(StudioError):
    code = "denied"
    exit_code = 7
    http_status = 403


class StepFailed(StudioError):
    code = "step_failed"
    exit_code = 8


class Cancelled(StudioError):
    code = "cancelled"
    exit_code = 9
    http_status = 409


def _tree(root: type[StudioError]) -> dict[str, type[StudioError]]:
    found = {root.code: root} if "code" in vars(root) else {}  # Waiting has none of its own: it is no kind of problem
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_problem(problem: Problem) -> StudioError:
    """The exception that a `Problem` received from another process stands for."""
    kind = _tree(StudioError).get(problem.code, StudioError)
    error = kind.__new__(kind)
    StudioError.__init__(error, problem.what, problem.why, problem.fix)
    error.code_files = problem.code_files
    error.missing_inputs = problem.missing_inputs
    error.hints = problem.hints
    error.environment = problem.environment
    return error

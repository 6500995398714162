"""The client's calls about the lab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studio.client.transport import Transport
from studio.core.errors import InvalidInput
from studio.core.jobs import Job
from studio.core.views import LabState


class LabCalls:
    """A part of studio.client.Client."""

    _transport: Transport

    def lab(self) -> LabState:
        """Whether the lab is paused, what it does, and all recipes."""
        return self._transport.get("/api/lab", LabState)

    def make_variants(
        self, reference: str, recipes: Sequence[str] = (), own: Sequence[str | Path] = (), again: bool = False
    ) -> tuple[Job, ...]:
        """Make variants of a version by recipes of these names and by TOML files of your own; none = the default ones.

        Those that are there are left alone unless their figures are stale, or `again`. No job where nothing is left to
        do; where unfinished jobs do all of it already, those. Raises NotFound, Conflict, and InvalidInput, naming the
        line, for a file that is no recipe.
        """
        body = {
            "reference": reference,
            "recipes": list(recipes),
            "own": [{"file": Path(path).name, "text": _text(Path(path))} for path in own],
            "again": again,
        }
        return self._transport.post("/api/lab", body, tuple[Job, ...])

    def judge_stale(self, reference: str = "") -> tuple[Job, ...]:
        """Measure and judge everything again whose figures are of another machine or runtime, of one version or of all.

        Raises NotFound.
        """
        return self._transport.post("/api/lab", {"stale": True, "reference": reference}, tuple[Job, ...])

    def pause_lab(self) -> LabState:
        """Stop what the lab runs where it is, until `resume_lab` or the next start of the engine."""
        return self._transport.post("/api/lab/pause", {}, LabState)

    def resume_lab(self) -> LabState:
        """Let it go on."""
        return self._transport.post("/api/lab/resume", {}, LabState)


def _text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"The recipe '{path}' can not be read.", f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text.", f"{error.reason}.", "Save the file as UTF-8.") from error

"""Jobs and steps: one run of the pipeline over one arrival, and its stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studio.core.errors import Problem
from studio.core.recipe import Plan

STEPS: tuple[str, ...] = (
    "arrived",
    "settled",
    "recognised",
    "converted",
    "checked",
    "registered",  # the reference variant serves from here on; what follows is evidence and variants
    "optimised",
    "verified",
    "measured",
)

LAB_STEPS = STEPS[STEPS.index("optimised") :]

StepState = Literal["pending", "running", "done", "failed", "skipped"]
JobState = Literal["queued", "running", "waiting", "done", "failed", "cancelled"]
"""`waiting`: for a word of the user; its problem says which (`needs_trust`, `needs_settings`)."""
FINISHED: frozenset[str] = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Step:
    """Times are Unix seconds. `progress` runs from 0 to 1, None where it is not known. `detail` is for people."""

    name: str
    state: StepState = "pending"
    started: float | None = None
    ended: float | None = None
    progress: float | None = None
    detail: str = ""

    def elapsed(self, now: float) -> float:
        """Seconds that it took, or has taken so far."""
        return 0.0 if self.started is None else (self.ended or now) - self.started


@dataclass(frozen=True, kw_only=True)
class Job:
    """`files` are absolute paths in the inbox; `digest` covers their content once settled.

    `fingerprint` (paths, sizes, times) tells an arrival that was worked through already from one that changed since.

    A job of the `lab` is no arrival: it has no files, and makes variants of the version that it names, by `plans` (none
    = those of the settings), `again` where they are there.
    """

    id: str
    stem: str
    state: JobState
    created: float
    files: tuple[str, ...]
    steps: tuple[Step, ...] = tuple(Step(name=name) for name in STEPS)
    updated: float = 0.0
    attempt: int = 1
    digest: str = ""
    fingerprint: str = ""
    format: str = ""
    model: str = ""
    version: int | None = None
    problem: Problem | None = None
    note: str = ""
    kind: Literal["arrival", "lab"] = "arrival"
    plans: tuple[Plan, ...] = ()
    again: bool = False

    @property
    def is_arrival(self) -> bool:
        return self.kind == "arrival"

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def resting(self) -> bool:
        """Nothing moves: it has ended, or waits for a word of the user."""
        return self.finished or self.state == "waiting"

    @property
    def in_lab(self) -> bool:
        """Whether it makes variants or waits for its turn to: an arrival does so once it has its endpoint."""
        return not self.resting and (not self.is_arrival or self.step("registered").state in ("done", "skipped"))

    @property
    def standing(self) -> str:
        """The state in words, the same on every face: `done`, `failed`, `needs trust`, `needs settings` …"""
        return self.problem.code.replace("_", " ") if self.state == "waiting" and self.problem else self.state

    def asks_for(self, code: str) -> bool:
        """Whether it waits for the answer to that problem: `needs_trust`, `needs_settings`."""
        return self.state == "waiting" and self.problem is not None and self.problem.code == code

    @property
    def current(self) -> Step | None:
        """The step that runs or failed, else the last one done."""
        live = [step for step in self.steps if step.state in ("running", "failed")]
        done = [step for step in self.steps if step.state in ("done", "skipped")]
        return live[0] if live else done[-1] if done else None

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def with_step(self, step: Step) -> Job:
        """The job with the step of the same name replaced."""
        return replace(self, steps=tuple(step if old.name == step.name else old for old in self.steps))

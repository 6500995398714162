"""What goes in and comes out of a worker, as plain values: one JSON document in, JSON lines out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from studio.core import codec
from studio.core.errors import InvalidInput, Problem
from studio.core.manifest import CrossValidation, Fidelity, Graph, InputsKind, Machine, Measurement, Verdict
from studio.core.preprocessing import Preprocessing
from studio.core.recipe import Plan
from studio.core.settings import GateSettings, WorkerSettings
from studio.core.tensors import Signature

Progress = Callable[[str, float | None, str], None]
"""A step of studio.core.jobs.STEPS, how far it is (0 to 1, None where not known), and a detail for people."""


MEMORY_MARKS = (
    "bad_alloc",
    "can't allocate memory",
    "Cannot allocate memory",
    "Failed to allocate memory",
    "MemoryError",
)
"""How Python, the C++ library, PyTorch and ONNX Runtime say that there is no memory left."""


class Elsewhere(Exception):
    """Raised in a worker by a task that is better done where a framework has been imported already."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class IntakeTask:
    """Recognise, convert and check an arrival. `files`: absolute paths, folders allowed. `out`: an empty folder.

    `trusted`: SHA-256 of files whose code the user said yes to. `warm`: extras whose frameworks wait elsewhere; the
    worker raises Elsewhere for a format of theirs. `first_run_seconds`: clock of a graph's first load and runs, 0 for
    none.
    """

    files: tuple[str, ...]
    out: str
    stem: str = ""
    gates: GateSettings = field(default_factory=GateSettings)
    threads: int = 1
    trusted: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()
    first_run_seconds: float = 0.0

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that its worker may read."""
        return self.files


@dataclass(frozen=True, kw_only=True)
class IntakeResult:
    """A checked reference graph. Paths are absolute, in the task's `out` folder; `sources` are what was read.

    The graph's `file` and `weights` carry hash and size; weights files are named by their hash. `samples_path` has one
    array per input, rows first, and `labels`: the user's, or made-up ones that the model was seen to accept.
    `example_path`: an Open Inference Protocol v2 request as JSON, of the first sample row; empty where JSON can not.
    `recipes`, `gates`, `alias`, `preprocessing`: what the settings file asks for, see VersionManifest. `asset_paths`:
    files that serving needs beside the graph.
    """

    format: str
    signature: Signature
    graph: Graph
    graph_path: str
    parity: Fidelity
    samples_kind: InputsKind
    samples_count: int
    samples_path: str
    example_path: str = ""
    sources: tuple[str, ...]
    machine: Machine
    tools: dict[str, str]
    weights_paths: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    class_labels: tuple[str, ...] = ()
    serve_only: str = ""
    notes: tuple[str, ...] = ()
    recipes: tuple[str, ...] | None = None
    gates: dict[str, float] = field(default_factory=dict)
    alias: str = ""
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    asset_paths: tuple[str, ...] = ()
    cross_validation: CrossValidation | None = None


@dataclass(frozen=True, kw_only=True)
class TemplateTask:
    """Take an arrival in as if it were dropped, and write a settings file for it instead of registering it."""

    arrival: IntakeTask

    @property
    def out(self) -> str:
        return self.arrival.out

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that its worker may read."""
        return self.arrival.files


@dataclass(frozen=True, kw_only=True)
class TemplateResult:
    """The `text` of a settings file. `problem`: what the user has to answer first, where there is something.

    `settings_inside`: where the given folder has a settings file already.
    """

    text: str
    format: str
    detail: str
    problem: Problem | None = None
    settings_inside: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceFiles:
    """What a version was made from: its `format`, the arrival's name, and its files by the path that each had in it.

    `trusted`: SHA-256 of files whose code the user said yes to.
    """

    format: str
    stem: str
    files: dict[str, str]
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VariantTask:
    """Make and judge one variant by `plan`; the plan with the reference variant's name only measures the reference.

    `samples`: the version's `.npz`, `kind` where it came from. `reference_size` in bytes, weights included. `out`: an
    empty folder. `weights`: the reference's external data, in the same folder. `graph`: what was made by the plan
    before, to be judged once more instead of being made again; empty = it is to be made. `measure_seconds`: for times.
    """

    plan: Plan
    reference: str
    out: str
    samples: str
    kind: InputsKind
    batchable: bool
    reference_size: int
    gates: GateSettings = field(default_factory=GateSettings)
    threads: int = 1
    measure_seconds: float = WorkerSettings.measure_seconds
    weights: tuple[str, ...] = ()
    graph: str = ""
    source: SourceFiles | None = None
    """For recipes that train the version's own network."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that its worker may read."""
        made = [self.graph] if self.graph else []
        return *self.measured, *made, *(self.source.files.values() if self.source else ())

    @property
    def measured(self) -> tuple[str, ...]:
        """What there is to read for measuring."""
        return self.reference, self.samples, *self.weights


@dataclass(frozen=True, kw_only=True)
class MadeResult:
    """A variant's graph and its fidelity. `graph` None: the recipe does not apply, and `reason` says why.

    `wants_samples`: it would with enough real samples.
    """

    graph: Graph | None = None
    graph_path: str = ""
    reason: str = ""
    wants_samples: bool = False
    fidelity: Fidelity | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    machine: Machine
    tools: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """Measure what was made, in a process of its own. `made` None measures the reference itself."""

    variant: VariantTask
    made: MadeResult | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that its worker may read, beside what was made in its own folder."""
        return self.variant.measured


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """Try to get out of the sandbox, to see how well it holds. `outside`: a file that it may neither read nor write.

    `port`: a TCP port on loopback on which someone listens. `pid`: a process of the same user.
    """

    out: str
    outside: str
    port: int
    pid: int
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What succeeded that should not."""

    escaped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """All of a variant's evidence. `graph` None where nothing was made; the verdict says why.

    `wants_samples`: it could have been made with enough real samples.
    """

    verdict: Verdict
    machine: Machine
    tools: dict[str, str]
    graph: Graph | None = None
    graph_path: str = ""
    fidelity: Fidelity | None = None
    measurement: Measurement | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    wants_samples: bool = False


Task = IntakeTask | TemplateTask | VariantTask | MeasureTask | ProbeTask
Result = IntakeResult | TemplateResult | MadeResult | VariantResult | ProbeResult

_TASKS: dict[str, type[Any]] = {
    "intake": IntakeTask,
    "template": TemplateTask,
    "make": VariantTask,
    "measure": MeasureTask,
    "probe": ProbeTask,
}
_RESULTS: dict[str, type[Any]] = {
    "intake": IntakeResult,
    "template": TemplateResult,
    "make": MadeResult,
    "measure": VariantResult,
    "probe": ProbeResult,
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One line from a worker. `type`: ready, sandbox (it has shut itself in), progress, result, problem, or elsewhere
    (`kind` says where the task should be done)."""

    type: str
    step: str = ""
    progress: float | None = None
    detail: str = ""
    kind: str = ""
    value: Any = None
    problem: Problem | None = None
    sandbox: dict[str, str] = field(default_factory=dict)


def encode_task(task: Task) -> bytes:
    kind = next(name for name, known in _TASKS.items() if type(task) is known)
    return codec.encode({"kind": kind, "task": task}) + b"\n"


def decode_task(data: bytes) -> tuple[str, Any]:
    """The kind of a task and the task. Raises InvalidInput."""
    table = codec.decode(data, dict, "task")
    kind = table.get("kind")
    if kind not in _TASKS:
        raise InvalidInput(f"There is no task {kind!r}.")
    return kind, codec.convert(table.get("task"), _TASKS[kind], "task")


def decode_result(task: Task, value: Any) -> Any:
    """The typed result of a task. Raises InvalidInput when a worker sent something else."""
    kind = next(name for name, known in _TASKS.items() if type(task) is known)
    return codec.convert(value, _RESULTS[kind], "result of a worker")

"""Manifests: the immutable documents that say what a version and each of its variants are.

`store/models/<model>/<version>.json` is the version: its source, its signature, its reference graph and how far that
graph agrees with the source framework. `store/models/<model>/<version>-<variant>.json` is one variant with its figures
and verdict; variants follow their version, so that the endpoint is up before they are made. Neither is ever edited:
what is measured again is a further document, `<version>-<variant>@2.json`, and the newest of a variant holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from studio.core.names import REFERENCE_VARIANT, variant_key
from studio.core.preprocessing import Preprocessing
from studio.core.recipe import Plan
from studio.core.settings import GateSettings
from studio.core.tensors import Signature

SCHEMA = 1

InputsKind = Literal["labelled", "samples", "captured", "synthetic"]
"""Where the inputs of a judgement came from, most trusted first: samples beside the model with labels, or without;
requests that the endpoint was asked to record; numbers drawn from the signature, never enough for accuracy."""

INPUTS_WORDS: dict[InputsKind, str] = {
    "labelled": "labelled samples",
    "samples": "samples",
    "captured": "recorded requests",
    "synthetic": "made-up inputs",
}
"""How every face says where inputs came from."""

TaskKind = Literal["classification", "binary", "regression", "embedding", "other"]
"""What a model does, as its outputs and the labels tell: see studio.verify.tasks."""

Outcome = Literal["reference", "keep", "reject", "not distinguishable", "not applicable"]


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A blob of the store under the name it had, or has, outside."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was dropped. `digest` covers every file of the arrival, so identical content is one version."""

    format: str
    files: tuple[FileRef, ...]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A servable ONNX file. `weights` are external-data blobs, empty for a self-contained file.

    A graph names external data by the blob's own hash, so it loads straight from the blob folder.
    """

    file: FileRef
    weights: tuple[FileRef, ...] = ()
    opset: int = 0
    ir_version: int = 0
    parameters: int = 0
    operators: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes on disk, weights included."""
        return self.file.size + sum(part.size for part in self.weights)


@dataclass(frozen=True, kw_only=True)
class OutputFidelity:
    """How near one output comes to the reference, over all samples. SQNR in dB; `None` where it is not defined.

    `correlation` is the cosine after each column's reference mean is taken off: a constant answer can not fake it.
    `topk_agreement`: the mean share of the reference's five largest scores that are among the five largest here, from
    ten classes on. `rank_correlation`: of embeddings, whether the same rows are near each other. `non_finite` values
    are NaN or infinite here and not in the reference, `changed_non_finite` so in the reference and something else here.
    """

    name: str
    cosine: float | None
    sqnr_db: float | None
    max_abs: float
    max_rel: float
    top1_agreement: float | None = None
    non_finite: int = 0
    changed_non_finite: int = 0
    correlation: float | None = None
    topk_agreement: float | None = None
    rank_correlation: float | None = None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often rows of one class were taken for another: `counts[true][predicted]`, in the order of `classes`."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures against labels, beside accuracy; None where they are not defined. Formulas: studio.verify.scores.

    `f1` and `auc` are means over the classes, each of the same weight. `rmse` and `mae` are in the labels' own unit.
    """

    f1: float | None = None
    auc: float | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None
    confusion: Confusion | None = None


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """One tensor between the layers: `sqnr_db` against the reference, `before_db` where its node's inputs were.

    None = nothing differs. `order` counts the compared tensors from the inputs on, `non_finite` values that are NaN or
    infinite here and not in the reference; where there are any, `sqnr_db` is of the rest.
    """

    order: int
    operator: str
    node: str
    tensor: str
    sqnr_db: float | None
    before_db: float | None
    non_finite: int = 0


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Where a damaged variant broke: the `worst` tensors of `compared`, most damage first, over at least `rows`."""

    rows: int
    compared: int
    worst: tuple[LayerError, ...]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Agreement of a variant (or a converted graph) with its reference on the same inputs.

    `scores`, `reference_scores`: against the labels, where there are any. `layers` is there where a variant strays far.
    `unjudged`: those of the `samples` to which the reference answers NaN, so that nothing can agree with it.
    """

    inputs: InputsKind
    samples: int
    batch_sizes: tuple[int, ...]
    outputs: tuple[OutputFidelity, ...]
    accuracy: float | None = None
    reference_accuracy: float | None = None
    task: TaskKind = "other"
    scores: Scores | None = None
    reference_scores: Scores | None = None
    layers: Layers | None = None
    unjudged: int = 0

    @property
    def judged(self) -> int:
        """Samples that agreement and accuracy are about."""
        return self.samples - self.unjudged

    @property
    def worst(self) -> OutputFidelity | None:
        """The output that strays most: the one to print when there is room for one."""
        return max(self.outputs, key=lambda out: (out.non_finite + out.changed_non_finite, out.max_rel), default=None)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds a run, over `runs` runs of `batch` rows, each with `threads` threads.

    `speedup` = reference time / own time in the same rounds, with as many rows and threads; None for the reference.
    """

    batch: int
    threads: int
    runs: int
    p50: float
    p95: float
    p99: float
    mean: float
    speedup: Interval | None = None

    @property
    def rate(self) -> float:
        """Rows a second, from the median: one pre-empted run must not decide which batch is best."""
        return 1000.0 * self.batch / self.p50


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What to serve it with, as measured: ONNX Runtime's threads for one run, and the rows of a batch."""

    threads: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Figures of one variant on one machine. Taken interleaved with the reference (A B A B …).

    `latency` begins with single rows at the workspace's number of threads, `speedup` is that of these; then larger
    batches, then all cores where there was room to measure them. `throughput`: rows a second at the best batch, same
    threads.
    """

    latency: tuple[Latency, ...]
    throughput: float
    throughput_batch: int
    load_ms: float
    peak_memory: int
    speedup: Interval | None = None
    tuned: Tuned | None = None

    @property
    def p50(self) -> float:
        return self.latency[0].p50

    @property
    def batched(self) -> bool:
        """Whether anything was seen of batches; not for models that take one row a run, or none."""
        return any(one.batch > 1 for one in self.latency)

    def at(self, batch: int, threads: int) -> Latency | None:
        """The figures of that setting, where it was measured."""
        return next((one for one in self.latency if (one.batch, one.threads) == (batch, threads)), None)

    @property
    def rate_speedup(self) -> Interval | None:
        """Own throughput / the reference's, at the batch that is best for this one; None where only one was run."""
        best = self.at(self.throughput_batch, self.latency[0].threads)
        return best.speedup if best is not None and best is not self.latency[0] else None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One rule and what it saw. `rule` is readable: 'cosine ≥ 0.99'."""

    name: str
    rule: str
    value: float | None
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gates decided, in a sentence that carries its own figures.

    `reason`: what counts, in a few words: '3.1x faster, 4.0x smaller', '7.0x slower'. `agreement`: how far it agrees.
    """

    outcome: Outcome
    sentence: str
    gates: tuple[Gate, ...] = ()
    reason: str = ""
    agreement: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where figures hold: the processor, its cores, and the runtime."""

    cpu: str
    cores: int
    memory: int
    system: str
    runtime: str


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Sample inputs kept with a version: an `.npz` blob with one array per input, rows first; optional labels."""

    kind: InputsKind
    count: int
    file: FileRef | None = None

    @property
    def real(self) -> int:
        """How many there are that nobody made up."""
        return 0 if self.kind == "synthetic" else self.count


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """How well fresh copies of an estimator did on parts of the samples that they were not fitted on.

    It judges the kind of model on these samples, not the weights that are served. `metric`: accuracy, or RMSE in the
    labels' unit; `std` over the `folds` that were done of those `wanted`, with n − 1.
    """

    estimator: str
    metric: Literal["accuracy", "RMSE"]
    folds: int
    wanted: int
    samples: int
    mean: float
    std: float
    scores: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class VersionManifest:
    """What one arrival became. Times are ISO 8601, UTC. `example` is a request body (OIP v2 JSON) that it answers.

    `serve_only`: why no variants can be made of it, empty where they can. What its settings file asked for:
    `recipes` (None = those of the workspace), `gates` (thresholds of GateSettings by name, in place of the
    workspace's), `alias` (to be moved to it), `preprocessing` by input name. `assets`: files that serving it needs
    beside the graph, a tokenizer for one. `cross_validation`: where the settings file asked for it.
    """

    model: str
    version: int
    created: str
    source: Source
    signature: Signature
    graph: Graph
    parity: Fidelity
    samples: Samples
    machine: Machine
    tools: dict[str, str]
    title: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    class_labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    example: FileRef | None = None
    serve_only: str = ""
    recipes: tuple[str, ...] | None = None
    gates: dict[str, float] = field(default_factory=dict)
    alias: str = ""
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    assets: tuple[FileRef, ...] = ()
    cross_validation: CrossValidation | None = None
    schema: int = SCHEMA

    def gates_over(self, workspace: GateSettings) -> GateSettings:
        """The thresholds that hold for this version: its own, then the workspace's."""
        return gates_with(workspace, self.gates)


def gates_with(gates: GateSettings, own: dict[str, float]) -> GateSettings:
    """The thresholds with some replaced. Names that this Studio does not know are left out: they are of another."""
    known = {field.name for field in fields(GateSettings)}
    return replace(gates, **{name: value for name, value in own.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class VariantManifest:
    """One variant with its evidence. `graph` is None where the recipe did not apply or failed; the verdict says why.

    `run` counts how often it was judged: the newest document holds, and all are of the same graph. `content` is the
    digest of all that the evidence depends on; `taken_from` names the variant of equal content whose evidence this is.
    `refused_rows`: the real samples there were when its recipe refused for want of them, None where it did not.
    """

    model: str
    version: int
    variant: str
    created: str
    plan: Plan
    verdict: Verdict
    machine: Machine
    tools: dict[str, str]
    graph: Graph | None = None
    fidelity: Fidelity | None = None
    measurement: Measurement | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    run: int = 1
    content: str = ""
    taken_from: str = ""
    refused_rows: int | None = None
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        return variant_key(self.version, self.variant)

    @property
    def is_reference(self) -> bool:
        return self.variant == REFERENCE_VARIANT

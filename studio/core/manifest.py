"""Manifests: the immutable documents that say what a version and each of its variants are.

`store/models/<model>/<version>.json` is the version: its source, its signature, its reference graph and how far that
graph agrees with the source framework. `store/models/<model>/<version>-<variant>.json` is one variant with its figures
and verdict; variants follow their version, so that the endpoint is up before they are made. Neither is ever edited.
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

InputsKind = Literal["labelled", "samples", "synthetic"]
"""Where the inputs of a judgement came from. `synthetic` = drawn from the signature; never enough for accuracy."""

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
    """

    name: str
    cosine: float | None
    sqnr_db: float | None
    max_abs: float
    max_rel: float
    top1_agreement: float | None = None
    non_finite: int = 0
    correlation: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Agreement of a variant (or a converted graph) with its reference on the same inputs."""

    inputs: InputsKind
    samples: int
    batch_sizes: tuple[int, ...]
    outputs: tuple[OutputFidelity, ...]
    accuracy: float | None = None
    reference_accuracy: float | None = None

    @property
    def worst(self) -> OutputFidelity | None:
        """The output that strays most: the one to print when there is room for one."""
        return max(self.outputs, key=lambda out: (out.non_finite > 0, out.max_rel), default=None)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds a run, over `runs` runs of `batch` rows."""

    batch: int
    threads: int
    runs: int
    p50: float
    p95: float
    p99: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Figures of one variant on one machine. Taken interleaved with the reference (A B A B …).

    `throughput` is rows a second; `speedup` = reference time / own time on the same rounds.
    """

    latency: tuple[Latency, ...]
    throughput: float
    throughput_batch: int
    load_ms: float
    peak_memory: int
    speedup: Interval | None = None

    @property
    def p50(self) -> float:
        return self.latency[0].p50


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One rule and what it saw. `rule` is readable: 'cosine ≥ 0.99'."""

    name: str
    rule: str
    value: float | None
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gates decided, in a sentence that carries its own figures."""

    outcome: Outcome
    sentence: str
    gates: tuple[Gate, ...] = ()


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


@dataclass(frozen=True, kw_only=True)
class VersionManifest:
    """What one arrival became. Times are ISO 8601, UTC. `example` is a request body (OIP v2 JSON) that it answers.

    `serve_only`: why no variants can be made of it, empty where they can. What its settings file asked for:
    `recipes` (None = those of the workspace), `gates` (thresholds of GateSettings by name, in place of the
    workspace's), `alias` (to be moved to it), `preprocessing` by input name. `assets`: files that serving it needs
    beside the graph, a tokenizer for one.
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
    """One variant with its evidence. `graph` is None where the recipe did not apply or failed; the verdict says why."""

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
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        return variant_key(self.version, self.variant)

    @property
    def is_reference(self) -> bool:
        return self.variant == REFERENCE_VARIANT

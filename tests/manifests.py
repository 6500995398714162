"""Version and variant manifests for tests, with every field that store and registry look at."""

from __future__ import annotations

import hashlib

from studio.core.manifest import (
    Fidelity,
    FileRef,
    Graph,
    Interval,
    Latency,
    Machine,
    Measurement,
    Outcome,
    OutputFidelity,
    Samples,
    Source,
    VariantManifest,
    Verdict,
    VersionManifest,
)
from studio.core.recipe import plan_of
from studio.core.tensors import Signature, TensorSpec
from studio.store.blobs import Blobs

MACHINE = Machine(cpu="test", cores=2, memory=1 << 30, system="Linux", runtime="ort")
SIGNATURE = Signature((TensorSpec("x", "FP32", ("batch", 64)),), (TensorSpec("y", "FP32", ("batch", 10)),), True)


def fidelity(*cosines: float | None, accuracy: float | None = None) -> Fidelity:
    outputs = tuple(
        OutputFidelity(name=f"y{i}", cosine=cosine, sqnr_db=40.0, max_abs=1e-4, max_rel=1e-3)
        for i, cosine in enumerate(cosines)
    )
    return Fidelity(inputs="samples", samples=8, batch_sizes=(1, 4), outputs=outputs, accuracy=accuracy)


def measurement(p50: float, speedup: float | None = None) -> Measurement:
    return Measurement(
        latency=(Latency(batch=1, threads=1, runs=50, p50=p50, p95=p50 * 1.2, p99=p50 * 1.5, mean=p50),),
        throughput=1000 / p50,
        throughput_batch=8,
        load_ms=3.0,
        peak_memory=1 << 20,
        speedup=None if speedup is None else Interval(speedup, speedup * 0.9, speedup * 1.1),
    )


def blob(blobs: Blobs | None, text: str) -> FileRef:
    """A stored blob of this content; only its reference when there is no store to put it in."""
    data = text.encode()
    if blobs is None:
        return FileRef(name="model.onnx", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return blobs.put_bytes(data, "model.onnx")


def version(
    blobs: Blobs | None,
    model: str = "digits",
    number: int = 1,
    *,
    title: str = "",
    tags: tuple[str, ...] = (),
    format: str = "onnx",
    created: str = "",
    content: str | None = None,
    cosines: tuple[float | None, ...] = (1.0, 0.9999),
) -> VersionManifest:
    file = blob(blobs, content or f"{model} {number} fp32")
    return VersionManifest(
        model=model,
        version=number,
        created=created or f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}Z",
        source=Source(format=format, files=(file,), digest=file.sha256),
        signature=SIGNATURE,
        graph=Graph(file=file, opset=21, ir_version=10, parameters=10, operators={"Gemm": 2}),
        parity=fidelity(*cosines, accuracy=0.9),
        samples=Samples(kind="synthetic", count=8),
        machine=MACHINE,
        tools={"onnx": "1.22"},
        title=title,
        tags=tags,
        class_labels=tuple("0123456789"),
    )


def variant(
    blobs: Blobs | None,
    model: str = "digits",
    number: int = 1,
    name: str = "int8",
    *,
    outcome: Outcome = "keep",
    p50: float = 1.0,
    graph: bool = True,
) -> VariantManifest:
    content = f"{model} {number} {name}"
    return VariantManifest(
        model=model,
        version=number,
        variant=name,
        created="2026-01-01T00:00:00Z",
        plan=plan_of(name),
        verdict=Verdict(outcome=outcome, sentence=f"{name}: {outcome} at {p50} ms"),
        machine=MACHINE,
        tools={},
        graph=Graph(file=blob(blobs, content)) if graph else None,
        fidelity=fidelity(0.998, accuracy=0.88),
        measurement=measurement(p50, 1.5),
    )

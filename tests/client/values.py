"""Core values for tests: what an engine with two versions of `digits` would answer."""

from __future__ import annotations

import time

from studio.core.comparison import Arm, Comparison, Plan, Row
from studio.core.errors import Problem
from studio.core.jobs import STEPS, Job, Step
from studio.core.journal import AliasMove, Entry
from studio.core.manifest import (
    Fidelity,
    FileRef,
    Gate,
    Graph,
    Interval,
    Machine,
    OutputFidelity,
    Samples,
    Source,
    VariantManifest,
    Verdict,
    VersionManifest,
)
from studio.core.metrics import Point
from studio.core.recipe import plan_of
from studio.core.tensors import Signature, TensorSpec
from studio.core.views import (
    CallExample,
    LogLine,
    ModelDetail,
    ServerStatus,
    Status,
    VariantRow,
    VersionDetail,
    VersionPage,
    VersionRow,
)

MACHINE = Machine(cpu="Test CPU", cores=2, memory=8 << 30, system="Linux", runtime="onnxruntime 1.31.1")
SIGNATURE = Signature(
    inputs=(TensorSpec("image", "FP32", ("batch", 1, 8, 8)),),
    outputs=(TensorSpec("scores", "FP32", ("batch", 10)),),
    batchable=True,
)


def status(workspace: str, control_url: str = "", serving_url: str = "http://127.0.0.1:8080") -> Status:
    return Status(
        workspace=workspace,
        inbox=f"{workspace}/inbox",
        pid=4242,
        version="0.1.0",
        started=time.time() - 90,
        control_url=control_url,
        server=ServerStatus(state="ready", url=serving_url, pid=4243, loaded=2, memory=70 << 20),
        watching=True,
        models=1,
        versions=2,
        jobs_active=0,
        jobs_failed=1,
        notices=("The index was rebuilt.",),
    )


def variants(version: int) -> tuple[VariantRow, ...]:
    aliases = ("production",) if version == 1 else ()
    return (
        VariantRow(
            variant="fp32", outcome="reference", sentence="The reference.", size=120_000, p50=0.31, aliases=aliases
        ),
        VariantRow(
            variant="int8",
            outcome="keep",
            sentence="3.9x smaller, 1.4x faster.",
            size=31_000,
            p50=0.22,
            fidelity=0.9991,
            speedup=1.4,
        ),
    )


def version_row(version: int = 1, state: str = "serving") -> VersionRow:
    return VersionRow(
        model="digits",
        version=version,
        state=state,  # type: ignore[arg-type]
        created="2026-11-21T04:00:00Z",
        format="torch.export",
        size=120_000,
        p50=0.31,
        accuracy=0.957 if version == 1 else 0.997,
        fidelity=0.999999,
        aliases=("production",) if version == 1 else (),
        variants=variants(version),
        latest=version == 2,
        title="Handwritten digits",
    )


def page(total: int | None = None) -> VersionPage:
    rows = (version_row(2, "ready"), version_row(1))
    return VersionPage(rows=rows, total=len(rows) if total is None else total, offset=0)


def move(alias: str = "production", before: str = "1-fp32", after: str = "2-fp32", why: str = "") -> AliasMove:
    return AliasMove(
        model="digits", alias=alias, before=before, after=after, why=why, actor="cli", at="2026-11-21T04:10:00Z"
    )


def model_detail() -> ModelDetail:
    return ModelDetail(
        model="digits",
        primary="1-fp32",
        aliases={"production": "1-fp32", "latest": "2-fp32"},
        versions=page().rows,
        moves=(move(before="", after="1-fp32", why="first version"),),
    )


def fidelity() -> Fidelity:
    output = OutputFidelity(
        name="scores", cosine=0.9991, sqnr_db=31.2, max_abs=0.04, max_rel=0.01, top1_agreement=0.997, non_finite=0
    )
    return Fidelity(
        inputs="labelled", samples=300, batch_sizes=(1, 4), outputs=(output,), accuracy=0.95, reference_accuracy=0.957
    )


def version_detail() -> VersionDetail:
    blob = FileRef(name="digits.pt2", sha256="a" * 64, size=140_000)
    graph = Graph(
        file=FileRef(name="model.onnx", sha256="b" * 64, size=120_000), opset=20, ir_version=10, parameters=29_000
    )
    manifest = VersionManifest(
        model="digits",
        version=1,
        created="2026-11-21T04:00:00Z",
        source=Source(format="torch.export", files=(blob,), digest="c" * 64),
        signature=SIGNATURE,
        graph=graph,
        parity=fidelity(),
        samples=Samples(kind="labelled", count=300),
        machine=MACHINE,
        tools={"onnxruntime": "1.31.1"},
        title="Handwritten digits",
    )
    variant = VariantManifest(
        model="digits",
        version=1,
        variant="int8",
        created="2026-11-21T04:01:00Z",
        plan=plan_of("int8"),
        verdict=Verdict(outcome="keep", sentence="3.9x smaller, 1.4x faster.", gates=()),
        machine=MACHINE,
        tools={},
        graph=graph,
        fidelity=fidelity(),
    )
    entry = Entry(seq=1, at="2026-11-21T04:00:00Z", actor="engine", action="version.added", subject="digits:1")
    return VersionDetail(row=version_row(1), manifest=manifest, variants=(variant,), history=(entry,))


def job(
    id: str = "j1", state: str = "running", done: int = 3, problem: Problem | None = None, version: int | None = None
) -> Job:
    steps = tuple(
        Step(name=name, state="done" if i < done else "pending", started=100.0 + i, ended=101.0 + i)
        if i < done
        else Step(
            name=name,
            state=("failed" if state == "failed" else "running") if i == done and state != "done" else "pending",
            detail="as fast as it can" if i == done else "",
        )
        for i, name in enumerate(STEPS)
    )
    return Job(
        id=id,
        stem="digits",
        state=state,  # type: ignore[arg-type]
        created=100.0,
        files=("/inbox/digits.pt2",),
        steps=steps,
        updated=110.0,
        model="digits",
        version=version,
        problem=problem,
    )


def comparison(state: str = "done", references: tuple[str, ...] = ("digits:1-fp32", "digits:1-int8")) -> Comparison:
    done = state == "done"
    points = tuple(
        Point(at=float(i), requests=900.0 + i, errors=0.0, p50=0.5, p95=0.7, p99=0.9 + i / 10) for i in range(8)
    )
    arms = tuple(
        Arm(
            label="ABCD"[i],
            target=reference,
            requests=5000 if done else 10,
            p50=0.50 / (i + 1) if done else None,
            p95=0.7,
            p99=0.9,
            throughput=1800.0 * (i + 1) if done else None,
            series=points if done else (),
        )
        for i, reference in enumerate(references)
    )
    rows = (
        Row(
            metric="p50 latency",
            values=(0.50, 0.25)[: len(references)],
            unit="ms",
            words="B faster, 2.00x, 95 % CI 1.95-2.05",
            better="B",
            ratio=Interval(2.0, 1.95, 2.05),
        ),
        Row(
            metric="size", values=(120_000.0, 31_000.0)[: len(references)], unit="bytes", words="B smaller", better="B"
        ),
    )
    return Comparison(
        id="c1",
        state=state,  # type: ignore[arg-type]
        plan=Plan(references=references, seconds=4.0),
        created=100.0,
        arms=arms,
        rows=rows if done else (),
        verdict="digits:1-int8 is 2.00x faster, and agrees." if done else "",
        inputs="labelled",
        samples=300,
        machine=MACHINE,
        elapsed=4.0 if done else 1.0,
        gates=(Gate(name="cosine", rule="cosine ≥ 0.99", value=0.9991, passed=True),),
    )


def log_line(text: str = "Engine is up.", level: str = "info") -> LogLine:
    return LogLine(at=1_700_000_000.0, source="engine", level=level, text=text, subject="digits:1")  # type: ignore[arg-type]


def call_example(serving_url: str) -> CallExample:
    body = '{"inputs":[{"name":"image","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}]}'
    url = f"{serving_url}/v2/models/digits/infer"
    return CallExample(reference="digits", url=url, body=body, curl=f"curl {url}", python="…", javascript="…")

"""Plain values as an engine would give them: jobs, versions with their evidence, comparisons."""

from __future__ import annotations

from dataclasses import replace

from studio.core.comparison import Arm, Comparison, Plan, Row
from studio.core.errors import CodeFile, Problem, StudioError
from studio.core.jobs import STEPS, Job, Step
from studio.core.journal import Entry
from studio.core.manifest import (
    Fidelity,
    FileRef,
    Gate,
    Graph,
    Interval,
    Latency,
    Machine,
    Measurement,
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
    VariantRow,
    VersionDetail,
    VersionRow,
)

MACHINE = Machine(cpu="AMD EPYC 7B13", cores=2, memory=8 << 30, system="Linux 6.1", runtime="onnxruntime 1.31.0")
TOOLS = {"onnxruntime": "1.31.0", "torch": "2.9.0"}
START = 1_795_238_000.0


def variant_rows(aliases: dict[str, str], version: int) -> tuple[VariantRow, ...]:
    def named(variant: str) -> tuple[str, ...]:
        return tuple(name for name, key in aliases.items() if key == f"{version}-{variant}")

    return (
        VariantRow(
            variant="fp32",
            outcome="reference",
            sentence="The reference: converted from the source.",
            size=412_000,
            p50=0.412,
            throughput=2400,
            peak_memory=31_000_000,
            fidelity=1.0,
            accuracy=0.957,
            aliases=named("fp32"),
            front=True,
        ),
        VariantRow(
            variant="fp16",
            outcome="not distinguishable",
            sentence="Half the size, but not faster: 1.01x, 95 % CI 0.98-1.04.",
            size=206_000,
            p50=0.409,
            throughput=2410,
            fidelity=0.99998,
            accuracy=0.957,
            speedup=1.01,
            aliases=named("fp16"),
        ),
        VariantRow(
            variant="int8",
            outcome="keep",
            sentence="1.83x faster (95 % CI 1.79-1.88), 74 % smaller; top-1 agrees on 99.3 %.",
            size=107_000,
            p50=0.225,
            throughput=4400,
            peak_memory=24_000_000,
            fidelity=0.9991,
            accuracy=0.953,
            speedup=1.83,
            aliases=named("int8"),
            front=True,
        ),
        VariantRow(
            variant="int4",
            outcome="not applicable",
            sentence="No MatMul large enough for block-wise int4.",
            size=0,
        ),
    )


def version_row(model: str, version: int, aliases: dict[str, str], latest: bool, archived: bool = False) -> VersionRow:
    rows = variant_rows(aliases, version)
    mine = tuple(name for name, key in aliases.items() if key.startswith(f"{version}-"))
    return VersionRow(
        model=model,
        version=version,
        created="2026-11-21T04:08:00Z",
        format="torch.export",
        size=412_000,
        state="archived" if archived else "serving" if mine or latest else "ready",
        p50=0.412,
        accuracy=0.957,
        fidelity=1.0,
        aliases=mine,
        variants=rows,
        latest=latest,
        title="Handwritten digits",
        tags=("vision",),
        auto="int8",
        choice="int8: 1.83x faster, 3.9x smaller, agrees on 99.3 % of 300 labelled samples; fp16: not distinguishable.",
    )


def version_detail(row: VersionRow) -> VersionDetail:
    def ref(name: str, size: int) -> FileRef:
        return FileRef(name=name, sha256="9f3c1e20" * 8, size=size)

    fidelity = Fidelity(
        inputs="labelled",
        samples=300,
        batch_sizes=(1, 8),
        accuracy=0.957,
        reference_accuracy=0.957,
        outputs=(
            OutputFidelity(
                name="logits", cosine=0.9991, sqnr_db=38.2, max_abs=0.083, max_rel=2e-6, top1_agreement=0.993
            ),
        ),
    )
    graph = Graph(
        file=ref("model.onnx", 412_000),
        opset=18,
        ir_version=10,
        parameters=102_346,
        operators={"Conv": 4, "Relu": 5, "MatMul": 2, "Add": 2, "MaxPool": 2, "Flatten": 1, "Gemm": 1},
    )
    manifest = VersionManifest(
        model=row.model,
        version=row.version,
        created=row.created,
        source=Source(
            format=row.format, files=(ref("digits.pt2", 431_000), ref("digits.npz", 90_000)), digest="ab" * 32
        ),
        signature=Signature(
            inputs=(TensorSpec("image", "FP32", ("batch", 1, 8, 8)),),
            outputs=(TensorSpec("logits", "FP32", ("batch", 10)),),
            batchable=True,
        ),
        graph=graph,
        parity=fidelity,
        samples=Samples(kind="labelled", count=300),
        machine=MACHINE,
        tools=TOOLS,
        title=row.title,
        description="A small convolutional net on 8 × 8 pixels.",
        tags=row.tags,
        class_labels=tuple("0123456789"),
    )
    variants = tuple(
        VariantManifest(
            model=row.model,
            version=row.version,
            variant=one.variant,
            created=row.created,
            plan=plan_of(one.variant),
            verdict=Verdict(
                outcome=one.outcome,
                sentence=one.sentence,
                gates=(Gate(name="cosine", rule="cosine ≥ 0.99", value=one.fidelity, passed=True),) if one.size else (),
            ),
            machine=MACHINE,
            tools=TOOLS,
            graph=replace(graph, file=ref("model.onnx", one.size)) if one.size else None,
            fidelity=fidelity if one.size else None,
            measurement=Measurement(
                latency=(Latency(batch=1, threads=1, runs=400, p50=one.p50 or 0, p95=0.6, p99=0.9, mean=0.43),),
                throughput=one.throughput or 0,
                throughput_batch=32,
                load_ms=21.0,
                peak_memory=31_000_000,
                speedup=Interval(one.speedup, one.speedup - 0.04, one.speedup + 0.05) if one.speedup else None,
            )
            if one.size
            else None,
        )
        for one in row.variants
    )
    history = (
        Entry(
            seq=1,
            at="2026-11-21T04:08:00Z",
            actor="engine",
            action="version.added",
            subject=f"{row.model}:{row.version}",
        ),
        Entry(
            seq=2,
            at="2026-11-21T04:10:00Z",
            actor="tui",
            action="alias.moved",
            subject=f"{row.model}:production",
            before="1-fp32",
            after="2-int8",
            why="faster",
        ),
    )
    return VersionDetail(row=row, manifest=manifest, variants=variants, history=history)


def job(
    number: int,
    state: str = "done",
    upto: int = 9,
    stem: str = "digits",
    problem: Problem | None = None,
    progress: float | None = None,
) -> Job:
    """A job whose first `upto` steps are done; the next runs or failed, by the state."""
    created = START + number * 60
    steps = []
    for place, name in enumerate(STEPS):
        began = created + place * 0.7
        if place < upto:
            steps.append(Step(name=name, state="done", started=began, ended=began + 0.7, detail=f"{name} it"))
        elif place == upto and state in ("running", "failed"):
            ended = began + 0.3 if state == "failed" else None
            live = "running" if state == "running" else "failed"
            steps.append(Step(name=name, state=live, started=began, ended=ended, progress=progress))
        else:
            steps.append(Step(name=name))
    return Job(
        id=f"j{number:04d}",
        stem=stem,
        state=state,
        created=created,
        files=(f"/ws/inbox/{stem}.pt2",),
        steps=tuple(steps),
        updated=created + 7,
        format="torch.export",
        digest=f"digest of {stem}",
        model=stem,
        version=1 if upto > 5 else None,
        problem=problem,
    )


def by_hash(file: CodeFile) -> str:
    return file.sha256


def asking(number: int, stem: str, error: StudioError) -> Job:
    """A job that waits for the answer to a question."""
    return replace(job(number, "waiting", 3, stem, error.problem), format="", model="", version=None)


FAILURE = Problem(
    code="needs_trust",
    what="This file holds a pickle, which can run code when it is loaded.",
    why="old.pt is a torch.save of a whole module, not a torch.export.",
    fix="Export it with torch.export.save, or trust this file once: studio trust old.pt",
)


def comparison(plan: Plan, state: str = "done", number: int = 1) -> Comparison:
    arms = tuple(
        Arm(
            label="ABCD"[n],
            target=reference,
            requests=800,
            p50=0.41 / (n + 1),
            p95=0.6,
            p99=0.9,
            throughput=2400.0 * (n + 1),
            series=tuple(
                Point(
                    at=START + s,
                    requests=2400.0 * (n + 1),
                    errors=0,
                    p50=0.41 / (n + 1) + s % 5 / 50,
                    p95=0.6,
                    p99=0.9 + s % 7 / 20,
                )
                for s in range(20)
            ),
        )
        for n, reference in enumerate(plan.references)
    )
    return Comparison(
        id=f"c{number}",
        state=state,
        plan=plan,
        created=START + number,
        arms=arms,
        elapsed=plan.seconds if state == "done" else 4.0,
        rows=(
            Row(
                metric="p50",
                values=(0.41, 0.22),
                unit="ms",
                words="B faster, 1.83x, 95 % CI 1.79-1.88",
                better="B",
                ratio=Interval(1.83, 1.79, 1.88),
            ),
        ),
        verdict="B is faster: 1.83x, 95 % CI 1.79-1.88.",
        inputs="labelled",
        samples=300,
        machine=MACHINE,
    )

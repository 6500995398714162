"""What `studio show` says of the inputs that a verdict rests on, of scores, confusion and layers."""

from __future__ import annotations

from dataclasses import replace

from studio.core.manifest import Confusion, Fidelity, LayerError, Layers, OutputFidelity, Samples, Scores
from tests.cli.conftest import Run
from tests.client.fake_engine import FakeEngine
from tests.client.values import version_detail

OUT = OutputFidelity(
    name="y", cosine=0.61, sqnr_db=4.2, max_abs=3.0, max_rel=0.4, top1_agreement=0.41, topk_agreement=0.6
)
LAYERS = Layers(
    rows=8,
    compared=14,
    worst=(
        LayerError(order=3, operator="Conv", node="features.3", tensor="c3", sqnr_db=9.04, before_db=31.2),
        LayerError(order=9, operator="Gemm", node="head", tensor="h", sqnr_db=4.2, before_db=None, non_finite=7),
    ),
    sentence="breaks at Conv 'features.3': SQNR 31 → 9 dB",
)


def shown(engine: FakeEngine, run: Run, fidelity: Fidelity) -> str:
    value = version_detail()
    chosen = next(one for one in value.variants if one.variant == "int8")
    rows = tuple(replace(row, inputs=fidelity.inputs) if row.variant == "int8" else row for row in value.row.variants)
    value = replace(
        value,
        row=replace(value.row, variants=rows),
        manifest=replace(value.manifest, samples=Samples(kind=fidelity.inputs, count=fidelity.samples)),
        variants=(replace(chosen, fidelity=fidelity),),
    )
    resolved = {"model": "digits", "version": 1, "variant": "int8", "target": "digits:1-int8"}
    engine.on("GET", "/api/resolve/digits:1-int8", resolved)
    engine.on("GET", "/api/versions/digits/1", value)
    ran = run("show", "digits:1-int8")
    assert ran.code == 0, ran.err
    return ran.out


def test_made_up_inputs_are_named_wherever_a_verdict_rests_on_them(engine: FakeEngine, run: Run) -> None:
    out = shown(engine, run, Fidelity(inputs="synthetic", samples=64, batch_sizes=(1,), outputs=(OUT,)))
    assert "64 made-up inputs (synthetic): no accuracy can be claimed" in out
    (row,) = [line for line in out.splitlines() if line.startswith("▸ int8")]
    assert " synthetic " in row
    assert "same answer on 41.0 %, top-5 60.0 %, on 64 made-up inputs" in out
    assert "accuracy" not in out.partition("fidelity")[2]


def test_recorded_requests_are_named_too(engine: FakeEngine, run: Run) -> None:
    out = shown(engine, run, Fidelity(inputs="captured", samples=750, batch_sizes=(1,), outputs=(OUT,)))
    assert "on 750 recorded requests" in out and " captured " in out


def test_scores_confusion_and_layers_are_told(engine: FakeEngine, run: Run) -> None:
    confusion = Confusion(classes=("cat", "dog"), counts=((90, 10), (3, 97)))
    fidelity = Fidelity(
        inputs="labelled",
        samples=200,
        batch_sizes=(1, 32),
        outputs=(OUT,),
        accuracy=0.935,
        reference_accuracy=0.99,
        task="binary",
        scores=Scores(f1=0.93, auc=0.97, confusion=confusion),
        reference_scores=Scores(f1=0.99, auc=0.998),
        layers=LAYERS,
    )
    out = shown(engine, run, fidelity)
    assert "accuracy 93.5 %, F1 0.93, AUC 0.97" in out
    assert "accuracy 99.0 %, F1 0.99, AUC 0.998" in out
    lines = out.splitlines()
    assert ["cat", "dog", "10"] in [line.split() for line in lines]
    at = next(n for n, line in enumerate(lines) if line.startswith("LAYER"))
    assert "It breaks at Conv 'features.3': SQNR 31 → 9 dB. The worst of 14 compared layers" in lines[at - 1]
    assert lines[at + 1].split() == ["3", "Conv", "features.3", "31.2", "9.0", "–"]
    assert lines[at + 2].split() == ["9", "Gemm", "head", "exact", "4.2", "7"]

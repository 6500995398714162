"""What the screens say of the inputs behind a verdict, of layers, and of requests that are being recorded."""

from __future__ import annotations

import time
from dataclasses import replace

from studio.core.manifest import Fidelity, LayerError, Layers, OutputFidelity, Scores
from studio.core.recording import Recording, RecordingPlan
from studio.core.views import VariantRow
from studio.tui.widgets import version_text
from studio.tui.widgets.version_text import variant_cells, variant_words
from tests.manifests import variant
from tests.tui import values
from tests.tui.conftest import Studio, screen_text, until
from tests.tui.stub import filled

ROW = VariantRow(variant="int8", outcome="reject", sentence="int8 rejected.", size=1000, inputs="synthetic")
OUT = OutputFidelity(
    name="y", cosine=0.61, sqnr_db=4.2, max_abs=3.0, max_rel=0.4, top1_agreement=0.41, topk_agreement=0.6
)


def words(fidelity: Fidelity) -> str:
    return variant_words(ROW, replace(variant(None), fidelity=fidelity)).plain


def test_a_variant_names_what_it_was_judged_on() -> None:
    made_up = words(Fidelity(inputs="synthetic", samples=64, batch_sizes=(1,), outputs=(OUT,)))
    assert "64 made-up inputs" in made_up and "top-1 agrees on 41.0 %" in made_up and "top-5 on 60.0 %" in made_up
    assert variant_cells(ROW)["inputs"] == ("synthetic", "warning")
    assert variant_cells(replace(ROW, inputs="labelled"))["inputs"] == ("labelled", "foreground")
    assert "64 recorded requests" in words(Fidelity(inputs="captured", samples=64, batch_sizes=(1,), outputs=(OUT,)))


def test_scores_and_the_layers_that_broke_are_shown() -> None:
    error = LayerError(order=3, operator="Conv", node="features.3", tensor="c", sqnr_db=9.0, before_db=31.0)
    layers = Layers(rows=8, compared=9, worst=(error,), sentence="breaks at Conv 'features.3': SQNR 31 → 9 dB")
    text = words(
        Fidelity(
            inputs="labelled",
            samples=64,
            batch_sizes=(1,),
            outputs=(OUT,),
            scores=Scores(f1=0.5, auc=0.75),
            reference_scores=Scores(f1=0.9, auc=0.99),
            layers=layers,
        )
    )
    assert "breaks at Conv 'features.3': SQNR 31 → 9 dB" in text and "31 → 9 dB  Conv features.3" in text
    assert "0.75  the reference's 0.99" in text and "0.5  the reference's 0.9" in text


async def test_serve_says_while_requests_are_being_recorded(studio: Studio) -> None:
    client = filled()
    now = time.time()
    plan = RecordingPlan(model="digits", folder="/r/digits", rows=1000, bytes=1 << 20, started=now, until=now + 60)
    async with studio(client) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: ":production" in screen_text(pilot.app), "routes")
        assert "recording" not in screen_text(pilot.app)
        recording = (Recording(plan=plan, state="recording", rows=312, bytes=9),)
        client.push("status", replace(client.status(), recording=recording))
        await until(
            pilot, lambda: "● recording requests for digits (312 of 1000 rows)" in screen_text(pilot.app), "the line"
        )
        client.push("status", client.status())
        await until(pilot, lambda: "recording" not in screen_text(pilot.app), "the end of it")


def test_accuracy_is_told_with_the_rows_that_it_is_about() -> None:
    """The samples are 300; the reference was judged on those of them that nothing was learnt from."""
    detail = values.version_detail(values.version_row("digits", 2, {}, latest=True))
    assert "on 300 labelled rows" in version_text.overview(detail, 0.0).plain
    variants = tuple(
        replace(each, fidelity=replace(each.fidelity, samples=172, accuracy=0.948)) if each.fidelity else each
        for each in detail.variants
    )
    assert "on 172 labelled rows" in version_text.overview(replace(detail, variants=variants), 0.0).plain

"""Verdicts on planted variants: what is bad is rejected, for the right reason and with its figures."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import Problem
from studio.core.manifest import Fidelity, Interval, Latency, Measurement, OutputFidelity
from studio.core.settings import GateSettings
from studio.verify import measure as measuring
from studio.verify.fidelity import compare, fidelity_of
from studio.verify.verdict import judge, not_applicable, not_made, parity_gates, reference_verdict, share

GATES = GateSettings()


def measured(speed: tuple[float, float, float] | None, rate: tuple[float, float, float] | None = None) -> Measurement:
    """Figures with these speed-ups: of single rows, and of batches of 16 where given."""
    single = Latency(batch=1, threads=1, runs=100, p50=0.05, p95=0.06, p99=0.07, mean=0.05)
    batch = replace(single, batch=16, p50=0.2, speedup=Interval(*rate) if rate else None)
    best = batch if rate else single
    return Measurement(
        latency=(single, batch),
        throughput=best.rate,
        throughput_batch=best.batch,
        load_ms=1.0,
        peak_memory=1_000_000,
        speedup=None if speed is None else Interval(*speed),
    )


SAME = (1.0, 0.98, 1.02)
PERFECT = Fidelity(
    inputs="labelled",
    samples=300,
    batch_sizes=(1, 32),
    outputs=(OutputFidelity(name="y", cosine=1.0, sqnr_db=60.0, max_abs=0.0, max_rel=0.0, top1_agreement=1.0),),
    accuracy=0.99,
    reference_accuracy=0.99,
)


def output(**changes: object) -> Fidelity:
    return replace(PERFECT, outputs=(replace(PERFECT.outputs[0], **changes),))


def test_a_ruined_variant_is_rejected_with_its_figures(net, rows: dict[str, np.ndarray]) -> None:
    ruined = fidelity_of(net("ruined", seed=99), net("reference"), rows, batchable=True, kind="samples")
    verdict = judge("int8", ruined, measured((3.0, 2.9, 3.1)), 250, 1000, GATES)
    agreement, cosine = ruined.outputs[0].top1_agreement, ruined.outputs[0].cosine
    assert verdict.outcome == "reject"
    assert f"agrees on only {100 * agreement:.1f} % (top-1 agreement ≥ 0.98)" in verdict.sentence
    assert f"cosine {math.floor(cosine * 1e4) / 1e4:g} (cosine ≥ 0.99)" in verdict.sentence
    assert "120 samples" in verdict.sentence and "3.0x faster" in verdict.sentence
    failed = {gate.name for gate in verdict.gates if not gate.passed}
    assert failed == {"cosine", "top-1 agreement"}


def test_nan_is_rejected_however_well_the_rest_agrees(net, rows: dict[str, np.ndarray]) -> None:
    spoilt = fidelity_of(net("nan", spoil="nan"), net("reference"), rows, batchable=True)
    positive = int((rows["x"][:, 0] > 0).sum())
    verdict = judge("fp16", spoilt, measured((2.0, 1.9, 2.1)), 500, 1000, GATES)
    assert verdict.outcome == "reject"
    assert f"{4 * positive} values are NaN or infinite" in verdict.sentence


def test_a_variant_that_always_answers_the_same_is_rejected(net, rows: dict[str, np.ndarray]) -> None:
    constant = fidelity_of(net("constant", spoil="constant"), net("reference"), rows, batchable=True)
    assert judge("int8", constant, measured((2.0, 1.9, 2.1)), 500, 1000, GATES).outcome == "reject"
    # A regression near its mean: the cosine alone would let it pass.
    drifting = output(cosine=0.9999, top1_agreement=None, correlation=0.1)
    verdict = judge("int8", drifting, measured((2.0, 1.9, 2.1)), 500, 1000, GATES)
    assert verdict.outcome == "reject" and "correlation 0.1 (" in verdict.sentence


def whole_verdict(variant: Path, reference: Path, rows: dict[str, np.ndarray]):
    fidelity = fidelity_of(variant, reference, rows, batchable=True, kind="samples")
    own = measuring.measure(variant, reference, rows, True, seconds=0.75)
    sizes = variant.stat().st_size, reference.stat().st_size
    return judge("planted", fidelity, own, *sizes, GATES), own


def test_a_graph_with_extra_work_is_rejected_as_slower(net, rows: dict[str, np.ndarray]) -> None:
    verdict, own = whole_verdict(net("slow", extra=60), net("reference"), rows)
    assert verdict.outcome == "reject"
    assert re.fullmatch(r"planted rejected: [\d.]+x slower \(95 % CI [\d.]+–[\d.]+\), .*", verdict.sentence)
    assert own.speedup is not None and own.speedup.high < 1


@pytest.fixture
def busy() -> Iterator[None]:
    """Other programs that keep every core busy, off and on."""
    code = "import time\nwhile True:\n end = time.time() + 0.02\n while time.time() < end: pass\n time.sleep(0.01)"
    programs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_an_identical_graph_is_not_offered(net, rows: dict[str, np.ndarray]) -> None:
    verdict, _ = whole_verdict(net("same"), net("reference"), rows)
    assert verdict.outcome == "not distinguishable"
    assert "the same size" in verdict.sentence and "agrees on 100 % of 120 samples" in verdict.sentence


@pytest.mark.usefixtures("busy")
def test_a_busy_machine_makes_no_winner_of_an_identical_graph(net, rows: dict[str, np.ndarray]) -> None:
    verdict, _ = whole_verdict(net("same"), net("reference"), rows)
    assert verdict.outcome == "not distinguishable"


@pytest.mark.usefixtures("busy")
def test_twice_the_work_is_seen_on_a_busy_machine_too(net, rows: dict[str, np.ndarray]) -> None:
    slow, quick = net("slow", extra=60), net("quick", extra=30)
    verdict, own = whole_verdict(slow, quick, rows)
    assert own.speedup is not None and own.speedup.high < 1
    assert verdict.outcome == "reject" and "slower" in verdict.reason


@pytest.mark.parametrize(
    ("speed", "size", "outcome", "words"),
    [
        ((1.8, 1.7, 1.9), 278, "keep", "int8: 1.80x faster (95 % CI 1.70–1.90), 3.6x smaller; agrees on 100 % of 300"),
        (SAME, 500, "keep", "as fast (1.00x, 95 % CI 0.98–1.02), 2.0x smaller"),
        (SAME, 1000, "not distinguishable", "not distinguishable from the reference: as fast"),
        (SAME, 970, "not distinguishable", "1.03x smaller"),
        ((1.02, 1.01, 1.03), 1000, "not distinguishable", "too near the reference to matter"),
        ((1.5, 0.9, 2.2), 1000, "not distinguishable", "as fast (1.50x, 95 % CI 0.90–2.20)"),
        ((0.997, 0.996, 0.998), 500, "keep", "as fast (1.00x, 95 % CI 1.00–1.00), 2.0x smaller"),
        ((1.2, 1.1, 1.3), 1000, "keep", "1.20x faster"),
        ((0.8, 0.75, 0.85), 500, "keep", "1.25x slower (95 % CI 1.18–1.33), 2.0x smaller"),
        ((0.8, 0.75, 0.85), 1000, "reject", "slower without being smaller"),
        (SAME, 1200, "reject", "larger without being faster"),
        ((1 / 7, 1 / 8, 1 / 6), 278, "reject", "int8 rejected: 7.0x slower (95 % CI 6.0–8.0), 3.6x smaller"),
        (None, 500, "keep", "speed not measured, 2.0x smaller"),
    ],
)
def test_what_is_worth_having(speed, size: int, outcome: str, words: str) -> None:
    verdict = judge("int8", PERFECT, measured(speed), 1000 * size, 1_000_000, GATES)
    assert verdict.outcome == outcome
    assert words in verdict.sentence


def test_throughput_is_told_where_it_is_another_story() -> None:
    quick = judge("int8", PERFECT, measured((1.1, 1.05, 1.15), (2.0, 1.9, 2.1)), 500_000, 1_000_000, GATES)
    assert "2.0x the throughput (95 % CI 1.90–2.1) at batch 16: 80 000 rows/s" in quick.sentence
    assert quick.reason.startswith("1.10x faster, 2.0x the throughput in batches of 16, 2.0x smaller")
    alike = judge("int8", PERFECT, measured((1.1, 1.05, 1.15), (1.12, 1.1, 1.14)), 500_000, 1_000_000, GATES)
    assert "throughput" not in alike.sentence + alike.reason


@pytest.mark.parametrize(
    ("single", "batch", "outcome"),
    [
        (SAME, (2.0, 1.9, 2.1), "keep"),  # a gain for whoever sends batches
        (SAME, (1.5, 0.9, 2.2), "not distinguishable"),  # which may be chance
        ((0.8, 0.75, 0.85), (2.0, 1.9, 2.1), "reject"),  # and not at the price of slower single rows
        ((1.2, 1.1, 1.3), (0.9, 0.8, 0.95), "keep"),
    ],
)
def test_batches_count_where_single_rows_lose_nothing(single, batch, outcome: str) -> None:
    assert judge("int8", PERFECT, measured(single, batch), 1_000_000, 1_000_000, GATES).outcome == outcome


def test_half_a_kilobyte_is_no_gain() -> None:
    verdict = judge("int8", PERFECT, measured(SAME), 1100, 1600, GATES)
    assert verdict.outcome == "not distinguishable"
    assert verdict.reason == "saves only 500 bytes, and is not faster"
    assert "saves only 500 bytes, and is not faster: as fast (1.00x" in verdict.sentence
    (gate,) = [gate for gate in verdict.gates if gate.name == "smaller or faster"]
    assert not gate.passed and gate.rule.endswith("or in size, and then ≥ 4.1 kB")
    assert judge("int8", PERFECT, measured(SAME), 11_000, 16_000, GATES).outcome == "keep"
    # Faster is faster, however small the file.
    assert judge("int8", PERFECT, measured((1.2, 1.1, 1.3)), 1100, 1600, GATES).outcome == "keep"


@pytest.mark.parametrize(
    ("fidelity", "speed", "size", "reason"),
    [
        (PERFECT, (3.1, 3.0, 3.2), 250_000, "3.1x faster, 4.0x smaller"),
        (PERFECT, (1 / 7, 1 / 8, 1 / 6), 278_000, "7.0x slower"),
        (PERFECT, SAME, 1_000_000, "not distinguishable from the reference"),
        (PERFECT, (0.8, 0.75, 0.85), 1_000_000, "1.25x slower, the same size"),
    ],
)
def test_a_verdict_has_a_reason_of_a_few_words(fidelity: Fidelity, speed, size: int, reason: str) -> None:
    verdict = judge("int8", fidelity, measured(speed), size, 1_000_000, GATES)
    assert verdict.reason == reason
    assert verdict.agreement == ("agrees on 100 % of 300 labelled samples" if verdict.outcome == "keep" else "")


def test_what_just_fails_is_not_rounded_to_what_would_pass() -> None:
    near = judge("int8", output(cosine=0.98996), measured((3.0, 2.9, 3.1)), 250, 1000, GATES)
    assert near.reason == "cosine 0.9899"


def test_a_ruined_one_is_short_about_it() -> None:
    ruined = output(top1_agreement=0.41, cosine=0.2)
    assert judge("int8", ruined, measured((3.0, 2.9, 3.1)), 250, 1000, GATES).reason == "cosine 0.2"
    failed = Problem(code="step_failed", what="The step 'optimised' crashed (SIGSEGV).", fix="Retry.")
    verdict = not_made("int8", failed)
    assert (verdict.outcome, verdict.reason) == ("reject", "The step 'optimised' crashed (SIGSEGV)")
    assert "Retry" not in verdict.sentence


def test_accuracy_may_fall_by_the_limit_and_not_more() -> None:
    exact = replace(PERFECT, accuracy=0.98, reference_accuracy=0.99)
    assert judge("int8", exact, measured(SAME), 500_000, 1_000_000, GATES).outcome == "keep"
    worse = replace(PERFECT, accuracy=0.96, reference_accuracy=0.99)
    verdict = judge("int8", worse, measured(SAME), 500_000, 1_000_000, GATES)
    assert verdict.outcome == "reject"
    assert "accuracy falls by 3.0 points (accuracy drop ≤ 0.01), on 300 labelled samples" in verdict.sentence


def test_a_variant_that_hides_nan_is_rejected_and_nan_of_both_is_left_out() -> None:
    planted = replace(output(changed_non_finite=10), unjudged=1)
    hiding = judge("int8", planted, measured((2.0, 1.9, 2.1)), 500, 1000, GATES)
    assert hiding.outcome == "reject"
    assert "10 values are something else where the reference's are NaN or infinite, on 300 labelled" in hiding.sentence
    assert "NaN" in hiding.reason
    both = judge("int8", replace(PERFECT, unjudged=2), measured(SAME), 500_000, 1_000_000, GATES)
    assert both.outcome == "keep" and "of 298 labelled samples" in both.sentence
    assert both.sentence.endswith(", 2 more left out: the reference answers NaN to them.")
    none = judge("int8", replace(PERFECT, unjudged=300), measured(SAME), 500_000, 1_000_000, GATES)
    assert "nothing to agree with: the reference answers NaN to all of 300 labelled samples" in none.sentence


@pytest.mark.parametrize(
    ("count", "words"), [(1, "; 1 is too few to rely on."), (19, "; 19 are too few to rely on."), (20, "99.0 %).")]
)
def test_few_samples_are_called_few(count: int, words: str) -> None:
    verdict = judge("int8", replace(PERFECT, samples=count), measured(SAME), 500_000, 1_000_000, GATES)
    assert verdict.outcome == "keep" and verdict.sentence.endswith(words)
    made_up = replace(PERFECT, samples=count, inputs="synthetic", accuracy=None, reference_accuracy=None)
    assert "too few" not in judge("int8", made_up, measured(SAME), 500_000, 1_000_000, GATES).sentence


def test_a_slow_variant_is_told_of_in_sentences() -> None:
    for changes in ({"top1_agreement": None}, {"top1_agreement": None, "cosine": None}, {}):
        sentence = judge("int8", output(**changes), measured((0.3, 0.2, 0.4)), 500_000, 1_000_000, GATES).sentence
        assert re.search(r"smaller; (cosine 1\.0000|equal|agrees on 100 %) (on|of) 300 labelled samples", sentence)


def test_made_up_inputs_are_named_and_vouch_for_no_accuracy() -> None:
    made_up = replace(PERFECT, inputs="synthetic", samples=64, accuracy=None, reference_accuracy=None)
    sentence = judge("fp16", made_up, measured(SAME), 500_000, 1_000_000, GATES).sentence
    assert "100 % of 64 made-up inputs, which say nothing about accuracy" in sentence
    unlabelled = replace(made_up, inputs="samples")
    assert "accuracy unknown without labels" in judge("a", unlabelled, None, 500_000, 1_000_000, GATES).sentence


def test_a_rejection_in_few_words_names_made_up_inputs_too() -> None:
    bad = replace(output(cosine=0.5), inputs="synthetic", accuracy=None, reference_accuracy=None)
    assert judge("fp16", bad, measured(SAME), 500, 1000, GATES).reason == "cosine 0.5 on made-up inputs"
    assert judge("fp16", output(cosine=0.5), measured(SAME), 500, 1000, GATES).reason == "cosine 0.5"


def test_thresholds_are_settings() -> None:
    strict = replace(GATES, min_top1_agreement=1.0)
    nearly = output(top1_agreement=0.999)
    assert judge("int8", nearly, measured(SAME), 500_000, 1_000_000, GATES).outcome == "keep"
    assert judge("int8", nearly, measured(SAME), 500_000, 1_000_000, strict).outcome == "reject"
    slow = measured((0.5, 0.49, 0.51))
    assert judge("int8", PERFECT, slow, 500_000, 1_000_000, GATES).outcome == "reject"
    patient = replace(GATES, max_slowdown=3.0)
    assert judge("int8", PERFECT, slow, 500_000, 1_000_000, patient).outcome == "keep"


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert [share(value) for value in (1.0, 0.9996, 0.123)] == ["100 %", "99.9 %", "12.3 %"]


def test_parity_asks_for_closeness_and_equal_classes() -> None:
    near = output(max_rel=5e-4)
    assert all(gate.passed for gate in parity_gates(near, GATES))
    assert {gate.name for gate in parity_gates(output(max_rel=2e-3), GATES) if not gate.passed} == {"parity"}
    flipped = output(cosine=None, sqnr_db=None, max_rel=0.01, top1_agreement=0.99)
    assert all(gate.passed for gate in parity_gates(flipped, GATES))
    wrong = output(cosine=None, sqnr_db=None, max_rel=0.5, top1_agreement=0.5)
    assert not all(gate.passed for gate in parity_gates(wrong, GATES))


def test_the_reference_and_what_does_not_apply_have_sentences_too() -> None:
    assert reference_verdict(measured(None), 234_000).sentence == (
        "The reference: 0.050 ms at batch 1, 20 000 rows/s at batch 1, 234.0 kB."
    )
    verdict = not_applicable("int8", "it has no weights.")
    assert (verdict.outcome, verdict.sentence) == ("not applicable", "int8 does not apply: it has no weights.")


def test_a_source_that_rounds_coarsely_is_held_to_its_own_steps() -> None:
    reference = np.array([[0.0, 0.01, 0.02], [0.03, 0.5, 0.4]])
    one_step = compare([{"y": reference}], [{"y": reference + np.array([[0.01, 0, 0], [0, 0, 0]])}], ["y"])
    gates = GateSettings()
    assert not all(gate.passed for gate in parity_gates(one_step, gates))
    assert all(gate.passed for gate in parity_gates(one_step, gates, {"y": 0.02}))
    far = compare([{"y": reference}], [{"y": reference + np.array([[0.03, 0, 0], [0, 0, 0]])}], ["y"])
    (failed,) = [gate for gate in parity_gates(far, gates, {"y": 0.02}) if not gate.passed]
    assert failed.value == pytest.approx(0.03) and "0.02" in failed.rule
    whole = compare([{"y": np.array([[1, 2, 3]])}], [{"y": np.array([[1, 3, 3]])}], ["y"])
    assert not all(gate.passed for gate in parity_gates(whole, gates))
    assert all(gate.passed for gate in parity_gates(whole, gates, {"y": 2.0}))
    # An output without a tolerance keeps the usual gate.
    assert not all(gate.passed for gate in parity_gates(far, gates, {"z": 0.02}))

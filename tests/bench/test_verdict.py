"""The verdict on simulated measurements: machines that drift, noise, planted differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.bench import verdict
from studio.bench.bins import COUNT, binned, dense, quantiles_ms
from studio.bench.plan import Slice
from studio.core.comparison import Arm

LABELS = "ABCD"


def simulated(ratios, seed, rounds=20, drift=0.3, noise=0.15, seconds=0.5, base_us=2000.0):
    """Slices of a machine whose speed wanders by `drift`; arm i takes `ratios[i]` times as long."""
    rng = np.random.default_rng(seed)
    speed = np.exp(np.cumsum(rng.normal(0, drift / math.sqrt(rounds), rounds * len(ratios))))
    slices = []
    for number in range(rounds):
        for turn, arm in enumerate(rng.permutation(len(ratios))):
            scale = base_us * ratios[arm] * speed[number * len(ratios) + turn] * math.exp(rng.normal(0, 0.02))
            count = max(3, int(seconds * 1e6 / scale))
            times = scale * np.exp(rng.normal(0, noise, count)) + (rng.random(count) < 0.01) * scale * 4
            at = 1000.0 + number * len(ratios) * seconds + turn * seconds
            spent = float(times.sum()) / 1e6
            bins = binned(times.tolist())
            slices.append(Slice(round=number, arm=int(arm), at=at, seconds=spent, requests=count, errors=0, bins=bins))
    return slices


def arms_of(slices, count):
    made = []
    for arm in range(count):
        own = [one for one in slices if one.arm == arm]
        counts = sum((dense(one.bins) for one in own), np.zeros(COUNT))
        spent = sum(one.seconds for one in own)
        total, errors = sum(one.requests for one in own), sum(one.errors for one in own)
        made.append(verdict.figures(Arm(label=LABELS[arm], target=f"m:{arm + 1}"), counts, total, errors, spent))
    return made


def judged(slices, count=2):
    arms = arms_of(slices, count)
    table = verdict.rows(arms, slices)
    return {row.metric: row for row in table}, verdict.verdict(arms, table, 1)


def test_a_planted_difference_is_found_and_put_in_words():
    rows, sentence = judged(simulated([1.0, 1 / 1.83], seed=1))
    ratio = rows["p50"].ratio
    assert rows["p50"].better == "B" and ratio.low < 1.83 < ratio.high and ratio.high / ratio.low < 1.2
    assert rows["p50"].words == f"B faster, {ratio.value:.2f}x, 95 % CI {ratio.low:.2f}-{ratio.high:.2f}"
    assert rows["throughput"].better == "B" and rows["throughput"].words.startswith("B higher, ")
    assert sentence.startswith("B is faster than A: p50 1.")


def test_a_difference_of_a_fifth_is_found_on_a_drifting_machine_almost_always():
    found = [judged(simulated([1.2, 1.0], seed))[0]["p50"].better for seed in range(12)]
    assert found.count("B") >= 11 and "A" not in found


def test_the_same_variant_twice_is_not_distinguishable():
    runs = 60
    rows = [judged(simulated([1.0, 1.0], seed, rounds=8 + seed % 20))[0] for seed in range(runs)]
    for metric in ("p50", "p95", "p99", "throughput"):
        same = [row[metric] for row in rows if not row[metric].better]
        assert len(same) >= 0.9 * runs, metric
        assert all(row.words.startswith("not distinguishable") for row in same)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    ratios = [judged(simulated([1.5, 1.0], seed, rounds=10))[0]["p50"].ratio for seed in range(40)]
    assert sum(one.low <= 1.5 <= one.high for one in ratios) >= 0.85 * 40


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.7, 0.95, 1.0, 1.02, 1.4]), st.integers(3, 15))
def test_swapping_the_arms_inverts_the_ratios(seed, ratio, rounds):
    slices = simulated([1.0, ratio], seed, rounds)
    swapped = [replace(one, arm=1 - one.arm) for one in slices]
    for metric, row in judged(slices)[0].items():
        other = judged(swapped)[0][metric]
        if row.ratio is None:
            assert other.ratio is None
            continue
        assert other.ratio.value == pytest.approx(1 / row.ratio.value)
        assert other.ratio.low == pytest.approx(1 / row.ratio.high)
        assert other.ratio.high == pytest.approx(1 / row.ratio.low)
        assert {"A": "B", "B": "A", "": ""}[row.better] == other.better
        assert other.words == row.words.translate(str.maketrans("AB", "BA")) or not row.better


def test_two_rounds_are_too_few():
    rows, sentence = judged(simulated([1.0, 5.0], seed=1, rounds=2))
    assert rows["p50"].words == "too few good answers to compare" and rows["p50"].ratio is None
    assert sentence == "There are too few good answers to compare."


def test_rounds_in_which_one_arm_failed_do_not_count_and_errors_are_told():
    slices = [
        replace(one, bins={}, errors=one.requests, error="HTTP 500") if one.arm and one.round in (1, 2) else one
        for one in simulated([1.0, 0.5], seed=3)
    ]
    rows, sentence = judged(slices)
    failed = sum(one.errors for one in slices)
    assert rows["p50"].better == "B"
    assert rows["errors"].values == (0.0, float(failed))
    assert rows["errors"].words.startswith(f"B failed {failed} of ")
    assert f"B failed {failed} of " in sentence


def test_nothing_answered_at_all():
    bad = Slice(round=0, arm=0, at=1.0, seconds=0.5, requests=2, errors=2, error="gone")
    slices = [replace(bad, round=number, arm=arm) for number in range(4) for arm in (0, 1)]
    rows, sentence = judged(slices)
    assert rows["p50"].values == (None, None)
    assert "too few" in sentence


def test_several_arms_are_each_judged_against_the_first():
    rows, sentence = judged(simulated([1.0, 1.0, 0.5], seed=4, rounds=30), 3)
    row = rows["p50"]
    assert len(row.values) == 3 and row.better == "C"
    assert "C faster than A" in row.words and "B not distinguishable" in row.words
    assert sentence.startswith("C is faster than A")


def test_several_arms_of_which_one_is_slower_are_not_called_alike():
    rows, sentence = judged(simulated([1.0, 1.0, 2.0], seed=4, rounds=30), 3)
    assert rows["p50"].better == ""
    assert sentence.startswith("Latency p50: B not distinguishable")
    assert "A faster than C" in sentence


def test_a_load_test_of_one_arm_has_no_rows():
    slices = simulated([1.0], seed=5)
    arms = arms_of(slices, 1)
    assert verdict.rows(arms, slices) == ()
    sentence = verdict.verdict(arms, (), 4)
    assert sentence.startswith("m:1 answers ") and "4 clients" in sentence and "p50" in sentence


def test_merging_rounds_keeps_every_answer_and_the_verdict():
    slices = simulated([1.0, 0.5], seed=6, rounds=20)
    merged = verdict.merged(slices)
    assert {one.round for one in merged} == set(range(10))
    assert sum(one.requests for one in merged) == sum(one.requests for one in slices)
    assert sum(sum(one.bins.values()) for one in merged) == sum(sum(one.bins.values()) for one in slices)
    assert judged(merged)[0]["p50"].ratio.value == pytest.approx(judged(slices)[0]["p50"].ratio.value)


def test_students_t_and_the_expanded_tail():
    from scipy import stats

    for count in (3, 4, 5, 10, 30, 60):
        exact = stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1))
        assert verdict.expanded_tail(count) == pytest.approx(exact, rel=0.05, abs=5e-5)


@given(st.lists(st.floats(1, 1e8), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_quantiles_from_bins_lie_between_the_neighbouring_values(values, q):
    [found] = quantiles_ms(dense(binned(values)), (q,))
    ordered = sorted(values)
    rank = q * len(values)
    low = ordered[max(0, math.ceil(rank - 1e-6) - 1)]
    high = ordered[min(len(values) - 1, math.floor(rank + 1e-6))]
    assert low * 0.997 / 1000 <= found <= high * 1.003 / 1000

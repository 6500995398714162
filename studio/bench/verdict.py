"""From slices to figures, intervals and words. Pure.

A ratio's interval is a paired bootstrap over rounds: whole rounds are drawn with replacement, the same for every arm,
so that what a round did to all of them cancels out. Few rounds make a plain percentile interval too narrow; it is
widened as in Hesterberg, "What Teachers Should Know About the Bootstrap" (2015): the expanded percentile interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from studio.bench.bins import COUNT, dense, log_quantiles, quantiles_ms
from studio.bench.plan import Slice
from studio.core.comparison import Arm, Row
from studio.core.manifest import Interval

QUANTILES = (0.50, 0.95, 0.99)
TIMES = ("p50", "p95", "p99")
THROUGHPUT = "throughput"
RESAMPLES = 1000
MAX_BLOCKS = 60  # longer runs are judged by as many blocks of neighbouring rounds
LEAST_ROUNDS = 3
LEAST_EFFECT = 0.01  # two servers of the same model differ by this much; less is nothing to decide by

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Rounds:
    """Rounds (or blocks of them) of one arm: latency counts (rounds, bins), good answers and seconds (rounds,)."""

    counts: _Floats
    answers: _Floats
    seconds: _Floats


FASTER = "faster"


def rows(arms: Sequence[Arm], slices: Sequence[Slice], seed: int = 0) -> tuple[Row, ...]:
    """The verdict table: p50, p95, p99, throughput, errors. The first arm is the baseline; one arm makes no rows."""
    if len(arms) < 2:
        return ()
    intervals = _intervals(len(arms), slices, seed)
    values: dict[str, tuple[float | None, ...]] = {
        "p50": tuple(arm.p50 for arm in arms),
        "p95": tuple(arm.p95 for arm in arms),
        "p99": tuple(arm.p99 for arm in arms),
        THROUGHPUT: tuple(arm.throughput for arm in arms),
    }
    labels = [arm.label for arm in arms]
    table = [
        _row(metric, values[metric], labels, [by_metric.get(metric) for by_metric in intervals]) for metric in values
    ]
    return (*table, _errors(arms))


def verdict(arms: Sequence[Arm], table: Sequence[Row], clients: int) -> str:
    """One sentence over all of it, led by the median latency."""
    if len(arms) == 1:
        return _alone(arms[0], clients)
    by_metric = {row.metric: row for row in table}
    lead = by_metric["p50"]
    names = [arm.label for arm in arms]
    if lead.ratio is None:
        said = "There are too few good answers to compare."
    elif not lead.better and FASTER in lead.words:  # some of several arms differ, and none beats the first
        said = f"Latency p50: {lead.words}."
    elif not lead.better:
        said = f"{_join(names)} are not distinguishable in latency: p50 {_span(lead.ratio)}."
    else:
        other = names[0] if lead.better != names[0] else _join(names[1:])
        said = f"{lead.better} is faster than {other}: p50 {_span(_above_one(lead.ratio))}."
        against = [
            row.metric
            for row in table
            if row.metric != "p50" and row.better and row.better != lead.better and row.ratio
        ]
        if against:
            said += f" But {by_metric[against[0]].better} is better in {_join(against)}."
    failed = [f"{arm.label} failed {arm.errors} of {arm.requests} requests" for arm in arms if arm.errors]
    return f"{said} {_join(failed)}; figures are of the others." if failed else said


def _alone(arm: Arm, clients: int) -> str:
    if arm.p50 is None or arm.throughput is None:
        return f"{arm.target} gave no good answer to {arm.requests} requests."
    who = "one client" if clients == 1 else f"{clients} clients"
    errors = f"; {arm.errors} of {arm.requests} requests failed" if arm.errors else ""
    p99 = "" if arm.p99 is None else f", p99 {arm.p99:.3g} ms"
    return f"{arm.target} answers {arm.throughput:.4g} requests/s to {who}: p50 {arm.p50:.3g} ms{p99}{errors}."


def merged(slices: Sequence[Slice]) -> list[Slice]:
    """Half as many rounds, each the sum of two neighbours."""
    sums: dict[tuple[int, int], Slice] = {}
    for one in slices:
        key = (one.round // 2, one.arm)
        old = sums.get(key)
        if old is None:
            sums[key] = replace(one, round=one.round // 2)
            continue
        bins = dict(old.bins)
        for index, count in one.bins.items():
            bins[index] = bins.get(index, 0) + count
        sums[key] = Slice(
            round=key[0],
            arm=one.arm,
            at=one.at,
            seconds=old.seconds + one.seconds,
            requests=old.requests + one.requests,
            errors=old.errors + one.errors,
            bins=bins,
            error=old.error or one.error,
        )
    return list(sums.values())


# -- intervals


def _intervals(arms: int, slices: Sequence[Slice], seed: int) -> list[dict[str, Interval]]:
    """By arm after the first: metric -> interval of the ratio, above 1 = that arm is better than the first."""
    rounds = _paired(arms, slices)
    count = len(rounds[0].answers)
    if count < LEAST_ROUNDS:
        return [{} for _ in range(arms - 1)]
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(float)
    # The first row weighs every round once: it is the estimate itself.
    weights = np.vstack([np.ones(count), draws])
    logs = [_logs(one, weights) for one in rounds]
    tail = expanded_tail(count)
    found = []
    for own in logs[1:]:
        by_metric = {metric: _interval(logs[0][place] - own[place], tail) for place, metric in enumerate(TIMES)}
        by_metric[THROUGHPUT] = _interval(own[-1] - logs[0][-1], tail)
        found.append(by_metric)
    return found


def _paired(arms: int, slices: Sequence[Slice]) -> list[_Rounds]:
    """Rounds in which every arm gave a good answer, merged into at most MAX_BLOCKS blocks; only bins in use."""
    good: dict[int, dict[int, Slice]] = {}
    for one in slices:
        if one.bins:
            good.setdefault(one.round, {})[one.arm] = one
    whole = [turns for _, turns in sorted(good.items()) if len(turns) == arms]
    blocks = np.array_split(np.arange(len(whole)), min(MAX_BLOCKS, len(whole)) or 1)
    used = [index for turns in whole for one in turns.values() for index in one.bins]
    first, last = (min(used), max(used) + 1) if used else (0, COUNT)
    made = []
    for arm in range(arms):
        counts = np.zeros((len(blocks), last - first))
        seconds = np.zeros(len(blocks))
        for place, block in enumerate(blocks):
            for index in block:
                one = whole[index][arm]
                counts[place] += dense(one.bins)[first:last]
                seconds[place] += one.seconds
        if not whole:
            counts, seconds = counts[:0], seconds[:0]
        made.append(_Rounds(counts, counts.sum(axis=1), seconds))
    return made


def _logs(rounds: _Rounds, weights: _Floats) -> _Floats:
    """Logarithms of p50, p95, p99 (us) and throughput for every row of weights: shape (4, rows)."""
    times = np.concatenate(
        [log_quantiles(part @ rounds.counts, QUANTILES) for part in np.array_split(weights, 5)], axis=1
    )
    throughput = np.log((weights @ rounds.answers) / (weights @ rounds.seconds))
    return np.vstack([times, throughput])


def _interval(logs: _Floats, tail: float) -> Interval:
    low, high = np.quantile(logs[1:], [tail, 1 - tail])
    value = float(logs[0])
    return Interval(math.exp(value), math.exp(min(float(low), value)), math.exp(max(float(high), value)))


def expanded_tail(count: int) -> float:
    """The share to cut from each side of `count` rounds' bootstrap distribution for 95 % (Hesterberg 2015)."""
    return NormalDist().cdf(-math.sqrt(count / (count - 1)) * _t975(count - 1))


def _t975(freedom: int) -> float:
    """Student's t at 0.975, by Abramowitz & Stegun 26.7.5; within 1 % from 3 degrees of freedom on."""
    if freedom < 3:
        return {1: 12.706, 2: 4.303}[freedom]
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


# -- words


def _row(
    metric: str, values: tuple[float | None, ...], labels: Sequence[str], ratios: Sequence[Interval | None]
) -> Row:
    unit = "req/s" if metric == THROUGHPUT else "ms"
    known = [(label, ratio) for label, ratio in zip(labels[1:], ratios, strict=True) if ratio is not None]
    if not known:
        return Row(metric=metric, values=values, unit=unit, words="too few good answers to compare")
    word = "higher" if metric == THROUGHPUT else FASTER
    said = "; ".join(_words(labels[0], label, ratio, word, len(labels) > 2) for label, ratio in known)
    # Of several arms the best one stands for the row: the one with the largest ratio to the baseline.
    best, ratio = max(known, key=lambda one: one[1].value)
    better = best if _distinct(ratio) and ratio.value > 1 else ""
    if not better and all(_distinct(one) for _, one in known):
        better = labels[0]
    return Row(metric=metric, values=values, unit=unit, words=said, better=better, ratio=ratio)


def _words(baseline: str, label: str, ratio: Interval, word: str, several: bool) -> str:
    if not _distinct(ratio):
        said = f"not distinguishable, 95 % CI {_number(ratio.low)}-{_number(ratio.high)}"
        return f"{label} {said}" if several else said
    winner, loser = (label, baseline) if ratio.value > 1 else (baseline, label)
    than = f" than {loser}" if several else ""
    return f"{winner} {word}{than}, {_figures(_above_one(ratio))}"


def _errors(arms: Sequence[Arm]) -> Row:
    failed = [f"{arm.label} failed {arm.errors} of {arm.requests}" for arm in arms if arm.errors]
    words = _join(failed) if failed else "none failed"
    return Row(metric="errors", values=tuple(float(arm.errors) for arm in arms), unit="", words=words)


def _distinct(ratio: Interval) -> bool:
    apart = ratio.low > 1 or ratio.high < 1
    return apart and abs(math.log(ratio.value)) >= math.log(1 + LEAST_EFFECT)


def _above_one(ratio: Interval) -> Interval:
    return ratio if ratio.value >= 1 else Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def _figures(ratio: Interval) -> str:
    return f"{_number(ratio.value)}x, 95 % CI {_number(ratio.low)}-{_number(ratio.high)}"


def _span(ratio: Interval) -> str:
    return f"{_number(ratio.value)}x (95 % CI {_number(ratio.low)}-{_number(ratio.high)})"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def figures(arm: Arm, counts: _Floats, requests: int, errors: int, seconds: float) -> Arm:
    """The arm with its figures: latency from all bins of good answers, throughput while its slices ran."""
    p50, p95, p99 = quantiles_ms(counts, QUANTILES)
    rate = (requests - errors) / seconds if seconds and requests > errors else None
    return replace(arm, requests=requests, errors=errors, p50=p50, p95=p95, p99=p99, throughput=rate)

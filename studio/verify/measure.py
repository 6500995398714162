"""Latency, throughput, memory and load time of one graph, taken side by side with its reference.

A busy machine slows both alike, so rounds alternate between them (A B, B A, A B …), and every speed-up comes from
pairs of the same round, with an interval over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from studio.core.manifest import Interval, Latency, Measurement, Tuned
from studio.core.rows import RowLayout, row_layout
from studio.core.settings import WorkerSettings
from studio.verify.inputs import row_count, split_runs, take_rows
from studio.verify.machine import usable_cores
from studio.verify.memory import PeakMemory, free_memory
from studio.verify.session import Feed, Session, initialise, open_session, run, runner, signature_of

Progress = Callable[[float, str], None]

BATCHES = (1, 4, 16, 32)
SECONDS = WorkerSettings.measure_seconds  # a slow model takes the time of a few runs more
_GAIN = 1.10  # a larger batch must bring this much more throughput to be called the best
_THREADS_GAIN = 1.25  # more threads a run take cores from other runs: so much faster must a single one get
_SLICE_SECONDS = 0.012
_ROUNDS = 12
_FEWEST_ROUNDS = 4
_RESAMPLES = 2000

# Shares of the time: single rows first, because most is decided by them.
_SINGLE, _BATCH, _CORES = 0.4, 0.1, 0.15


def measure(
    variant_path: str | Path,
    reference_path: str | Path,
    inputs: Feed,
    batchable: bool,
    threads: int = 1,
    on_progress: Progress | None = None,
    seconds: float = SECONDS,
) -> Measurement:
    """Measure a variant beside its reference in about `seconds`; settings that would take much longer are left out.

    To be called first in a fresh process, because `peak_memory` is what loading and running the variant adds to it.
    `inputs` as from `load_samples` or `draw_inputs`. Raises Refused or StepFailed when a graph does not load or run.
    """
    return _measure(variant_path, reference_path, inputs, batchable, threads, on_progress, seconds)


def measure_reference(
    reference_path: str | Path,
    inputs: Feed,
    batchable: bool,
    threads: int = 1,
    on_progress: Progress | None = None,
    seconds: float = SECONDS,
) -> Measurement:
    """The same for the reference itself, which has no speed-up. In a fresh process too."""
    return _measure(reference_path, None, inputs, batchable, threads, on_progress, seconds)


@dataclass(frozen=True)
class _Rounds:
    """Times of several sessions that took turns: `times` in ms by session, `medians` [rounds, sessions]."""

    times: list[list[float]]
    medians: npt.NDArray[np.float64]

    def speedup(self, own: int, other: int) -> Interval:
        """How many times faster one is than another."""
        return speedup((self.medians[:, other] / self.medians[:, own]).tolist())


def _measure(
    path: str | Path,
    reference_path: str | Path | None,
    inputs: Feed,
    batchable: bool,
    threads: int,
    on_progress: Progress | None,
    seconds: float,
) -> Measurement:
    report = on_progress or (lambda share, text: None)
    report(0.0, "measuring memory and load time")
    session, load_ms, peak, feeds = _load(path, inputs, batchable, threads)
    arms = [session] if reference_path is None else [session, open_session(reference_path, threads)]
    report(0.15, "measuring latency")
    rounds = _take_turns(arms, feeds, _SINGLE * seconds)
    layout = row_layout(signature_of(session))
    latencies = [_summary(rounds, row_count(layout, feeds[0]), threads)]
    best = latencies[0]
    if batchable and layout is not None and layout.unit == 1:
        for place, batch in enumerate(BATCHES[1:]):
            report(0.5 + 0.1 * place, f"measuring throughput at batch {batch}")
            more = _batch(arms, layout, inputs, batch, latencies[-1], _BATCH * seconds)
            if more is None:
                break
            latencies.append(_summary(more, batch, threads))
        # The smallest batch that comes near the highest throughput: a larger one would only cost latency.
        most = max(latency.rate for latency in latencies)
        best = next(latency for latency in latencies if latency.rate * _GAIN >= most)
    wide = usable_cores()
    tuned = Tuned(threads=threads, batch=best.batch)
    if wide > threads and free_memory() > 4 * peak:
        report(0.8, f"measuring with {wide} threads")
        big = None if best is latencies[0] else take_rows(_known(layout), inputs, 0, best.batch)
        wider, gain = _all_cores(arms, path, reference_path, feeds, big, wide, _CORES * seconds, latencies[0].batch)
        latencies += wider
        if gain.low > 1 and gain.value >= _THREADS_GAIN:
            tuned = Tuned(threads=wide, batch=best.batch)
    report(1.0, "measured")
    return Measurement(
        latency=tuple(latencies),
        throughput=best.rate,
        throughput_batch=best.batch,
        load_ms=load_ms,
        peak_memory=peak,
        speedup=latencies[0].speedup,
        tuned=tuned,
    )


def _known(layout: RowLayout | None) -> RowLayout:
    assert layout is not None  # there are no batches without one
    return layout


def _load(path: str | Path, inputs: Feed, batchable: bool, threads: int) -> tuple[Session, float, int, list[Feed]]:
    # Set up outside the count: it costs the first session of a process megabytes and milliseconds, whatever it loads.
    initialise()
    peak = PeakMemory()
    started = time.perf_counter()
    session = open_session(path, threads)
    load = [(time.perf_counter() - started) * 1000]
    feeds = _feeds(session, inputs, batchable)
    for feed in feeds[:3]:
        run(session, feed)
    used = peak.bytes
    while len(load) < 3 and sum(load) < 1000:
        started = time.perf_counter()
        open_session(path, threads)
        load.append((time.perf_counter() - started) * 1000)
    return session, float(np.median(load)), used, feeds


def _feeds(session: Session, inputs: Feed, batchable: bool) -> list[Feed]:
    """Runs of one row each, or all inputs as one run where the model does not take single rows."""
    feeds = split_runs(signature_of(session), inputs)
    if batchable or len(feeds) == 1:
        return feeds
    try:
        runner(session)(feeds[0])
    except Exception:  # which sizes a model really runs is only seen by trying; run() reports what fails for good
        return [inputs]
    return feeds


def _batch(
    arms: Sequence[Session], layout: RowLayout, inputs: Feed, batch: int, before: Latency, seconds: float
) -> _Rounds | None:
    """Turns at a batch; None where the fewest rounds would take far longer than they may."""
    expected = len(arms) * _FEWEST_ROUNDS * before.p50 / 1000 * batch / before.batch
    if expected > 6 * seconds:
        return None
    return _take_turns(arms, [take_rows(layout, inputs, 0, batch)], seconds)


def _all_cores(
    arms: Sequence[Session],
    path: str | Path,
    reference_path: str | Path | None,
    feeds: list[Feed],
    big: Feed | None,
    cores: int,
    seconds: float,
    rows: int,
) -> tuple[list[Latency], Interval]:
    """Single rows with a thread for every core, and the best batch (`big`); then how much faster that is than before.

    One run at a time: what the threads of one run gain, not what many requests at once do.
    """
    wide = [open_session(path, cores)]
    if reference_path is not None:
        wide.append(open_session(reference_path, cores))
    # The variant as it was measured before takes turns too: only so can the threads be told from the weather.
    rounds = _take_turns([*wide, arms[0]], feeds, seconds)
    found = [_summary(rounds, rows, cores, len(wide))]
    if big is not None:
        found.append(_summary(_take_turns(wide, [big], seconds * 2 / 3), _rows_of(big), cores))
    return found, rounds.speedup(0, len(wide))


def _rows_of(feed: Feed) -> int:
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def _take_turns(arms: Sequence[Session], feeds: list[Feed], seconds: float) -> _Rounds:
    """Slices of runs, one session after the other, for about `seconds`; never fewer than four rounds."""
    estimate = max(_warm(arm, feeds) for arm in arms)
    count = int(np.clip(_SLICE_SECONDS / max(estimate, 1e-6), 1, 500))
    times: list[list[float]] = [[] for _ in arms]
    medians: list[list[float]] = []
    started = time.perf_counter()
    turn = 0
    while True:
        elapsed = time.perf_counter() - started
        if turn >= _ROUNDS and elapsed > seconds:
            break
        if turn >= _FEWEST_ROUNDS and elapsed > 3 * seconds:
            break
        # Whoever runs second finds warmer or colder caches: they take turns.
        order = range(len(arms)) if turn % 2 == 0 else range(len(arms) - 1, -1, -1)
        round_medians = [0.0] * len(arms)
        for place in order:
            taken = _slice(arms[place], feeds, turn * count, count)
            times[place] += taken
            round_medians[place] = float(np.median(taken))
        medians.append(round_medians)
        turn += 1
    return _Rounds(times, np.asarray(medians))


def _warm(session: Session, feeds: list[Feed]) -> float:
    """Seconds of a warm run."""
    started = time.perf_counter()
    run(session, feeds[0])
    best = time.perf_counter() - started
    for turn in range(20):
        if time.perf_counter() - started > 0.1:
            break
        best = min(best, _slice(session, feeds, turn, 1)[0] / 1000)
    return best


def _slice(session: Session, feeds: list[Feed], at: int, count: int) -> list[float]:
    times = []
    once = runner(session)
    for turn in range(at, at + count):
        feed = feeds[turn % len(feeds)]
        started = time.perf_counter_ns()
        once(feed)
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def _summary(rounds: _Rounds, batch: int, threads: int, pair: int | None = None) -> Latency:
    """The figures of the first session; the second, where the first `pair` hold one, is its reference."""
    times = rounds.times[0]
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    return Latency(
        batch=batch,
        threads=threads,
        runs=len(times),
        p50=p50,
        p95=p95,
        p99=p99,
        mean=float(np.mean(times)),
        speedup=rounds.speedup(0, 1) if (pair or len(rounds.times)) > 1 else None,
    )


def speedup(ratios: list[float], seed: int = 0) -> Interval:
    """The median of the rounds' ratios with its 95 % interval: percentile bootstrap over rounds (Efron, 1979)."""
    rounds = np.asarray(ratios)
    drawn = np.random.default_rng(seed).integers(0, len(rounds), (_RESAMPLES, len(rounds)))
    low, high = np.percentile(np.median(rounds[drawn], axis=1), (2.5, 97.5))
    return Interval(float(np.median(rounds)), float(low), float(high))

"""Latency, throughput, memory and load time of one graph, taken side by side with its reference.

A busy machine slows both alike, so rounds alternate reference and variant, and the speed-up comes from pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from studio.core.manifest import Interval, Latency, Measurement
from studio.verify.inputs import row_count, row_layout, split_runs, take_rows
from studio.verify.memory import PeakMemory
from studio.verify.session import Feed, Session, initialise, open_session, run, runner, signature_of

Progress = Callable[[float, str], None]

BATCHES = (1, 4, 16, 32)
_GAIN = 1.10  # a larger batch must bring this much more throughput to be called the best
_LATENCY_SECONDS = 1.8  # both arms together
_BATCH_SECONDS = 0.3
_SLICE_SECONDS = 0.012
_ROUNDS = 12
_FEWEST_ROUNDS = 4
_RESAMPLES = 2000


def measure(
    variant_path: str | Path,
    reference_path: str | Path,
    inputs: Feed,
    batchable: bool,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Measurement:
    """Measure a variant beside its reference in about 3 s; slow models take the time of a few runs more.

    To be called first in a fresh process, because `peak_memory` is what loading and running the variant adds to it.
    `inputs` as from `load_samples` or `draw_inputs`. Raises Refused or StepFailed when a graph does not load or run.
    """
    return _measure(variant_path, reference_path, inputs, batchable, threads, on_progress)


def measure_reference(
    reference_path: str | Path,
    inputs: Feed,
    batchable: bool,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Measurement:
    """The same for the reference itself, which has no speed-up. In a fresh process too."""
    return _measure(reference_path, None, inputs, batchable, threads, on_progress)


def _measure(
    path: str | Path,
    reference_path: str | Path | None,
    inputs: Feed,
    batchable: bool,
    threads: int,
    on_progress: Progress | None,
) -> Measurement:
    report = on_progress or (lambda share, text: None)
    report(0.0, "measuring memory and load time")
    session, load_ms, peak, feeds = _load(path, inputs, batchable, threads)
    reference = None if reference_path is None else open_session(reference_path, threads)
    report(0.2, "measuring latency")
    own, ratios = _latency(session, reference, feeds)
    del reference
    layout = row_layout(signature_of(session))
    first = _summary(own, row_count(layout, feeds[0]), threads)
    latencies = [first]
    if batchable and layout is not None and layout.unit == 1:
        for place, batch in enumerate(BATCHES[1:]):
            report(0.7 + 0.1 * place, f"measuring throughput at batch {batch}")
            times = _repeat(session, take_rows(layout, inputs, 0, batch), _BATCH_SECONDS)
            latencies.append(_summary(times, batch, threads))
    # The smallest batch that comes near the highest throughput: a larger one would only cost latency.
    most = max(map(_throughput, latencies))
    best = next(latency for latency in latencies if _throughput(latency) * _GAIN >= most)
    report(1.0, "measured")
    return Measurement(
        latency=tuple(latencies),
        throughput=_throughput(best),
        throughput_batch=best.batch,
        load_ms=load_ms,
        peak_memory=peak,
        speedup=None if reference_path is None else speedup(ratios),
    )


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


def _latency(session: Session, reference: Session | None, feeds: list[Feed]) -> tuple[list[float], list[float]]:
    """Own times in ms, and for each round the ratio of the reference's median to the own."""
    arms = [session] if reference is None else [session, reference]
    estimate = max(_warm(arm, feeds) for arm in arms)
    count = int(np.clip(_SLICE_SECONDS / max(estimate, 1e-6), 1, 500))
    own: list[float] = []
    ratios: list[float] = []
    started = time.perf_counter()
    turn = 0
    while True:
        elapsed = time.perf_counter() - started
        if turn >= _ROUNDS and elapsed > _LATENCY_SECONDS:
            break
        if turn >= _FEWEST_ROUNDS and elapsed > 3 * _LATENCY_SECONDS:
            break
        at = turn * count
        # Whoever runs second finds warmer or colder caches: they take turns.
        order = arms if turn % 2 == 0 else arms[::-1]
        slices = {id(arm): _slice(arm, feeds, at, count) for arm in order}
        own += slices[id(session)]
        if reference is not None:
            ratios.append(float(np.median(slices[id(reference)]) / np.median(slices[id(session)])))
        turn += 1
    return own, ratios


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


def _repeat(session: Session, feed: Feed, seconds: float) -> list[float]:
    run(session, feed)
    started = time.perf_counter()
    times: list[float] = []
    while len(times) < 3 or time.perf_counter() - started < seconds:
        times += _slice(session, [feed], 0, 1)
    return times


def _summary(times: list[float], batch: int, threads: int) -> Latency:
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    return Latency(batch=batch, threads=threads, runs=len(times), p50=p50, p95=p95, p99=p99, mean=float(np.mean(times)))


def _throughput(latency: Latency) -> float:
    # From the median: one pre-empted run must not decide which batch is best.
    return 1000.0 * latency.batch / latency.p50


def speedup(ratios: list[float], seed: int = 0) -> Interval:
    """The median of the rounds' ratios with its 95 % interval: percentile bootstrap over rounds (Efron, 1979)."""
    rounds = np.asarray(ratios)
    drawn = np.random.default_rng(seed).integers(0, len(rounds), (_RESAMPLES, len(rounds)))
    low, high = np.percentile(np.median(rounds[drawn], axis=1), (2.5, 97.5))
    return Interval(float(np.median(rounds)), float(low), float(high))

"""What Studio aims for, beside what this run reached."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench_serve.extras import Extras
from tests.bench_serve.rounds import Results
from tests.bench_serve.servers import GRPC, PROCESSES, RAW_ALL, RAW_ONE

JSON, BINARY = "Studio, v2 JSON", "Studio, v2 binary"


@dataclass(frozen=True)
class Target:
    """`reached` is "" where it was not measured; `met` is then of no meaning."""

    what: str
    wanted: str
    reached: str
    met: bool


def judge(results: Results, extras: Extras | None) -> list[Target]:
    """Every target, in the order of the issue they come from."""
    rows = [*_cost(results), *_peers(results), *_added(results, extras), *_share(results)]
    value = results.median("tiny", GRPC, 16, "cpu_us")
    rows.append(_at_most("gRPC ModelInfer, tiny, 16 at once: CPU", value, 380, "µs"))
    return rows + (_operation(extras) if extras else [])


def _cost(results: Results) -> list[Target]:
    rows = []
    for at_once in (16, 64):
        cpu = results.median("tiny", JSON, at_once, "cpu_us")
        rows.append(_at_most(f"tiny, JSON, {at_once} at once: CPU a request", cpu, 40, "µs"))
    for at_once in (16, 64):
        share = results.ratio("tiny", JSON, RAW_ONE, at_once)
        rows.append(_share_of(f"tiny, JSON, {at_once} at once: of the raw loop's runs a second", share, 55))
    return rows


def _peers(results: Results) -> list[Target]:
    names = [name for name in results.names("tiny") if not name.startswith(("Studio", "raw", "bare"))]
    mosec = [name for name in names if name.startswith("mosec")]
    rows = []
    for at_once, wanted in ((1, 2.5), (16, 5.0), (64, 2.0)):
        best = _closest(results, mosec, at_once)
        rows.append(_at_least(f"tiny, JSON, {at_once} at once: req/s against mosec's best setting", best, wanted))
    for at_once in (16, 64):
        best = _closest(results, [name for name in names if name not in mosec], at_once)
        rows.append(_at_least(f"tiny, JSON, {at_once} at once: req/s against every other peer", best, 20))
    return rows


def _closest(results: Results, names: Sequence[str], at_once: int) -> tuple[float, str] | None:
    """The peer that comes closest: how many times its requests a second Studio answers in its own best setting, and who
    they are, with how many times Studio's CPU time the peer takes for one (which a busy machine distorts less)."""
    best = {}
    for own in (JSON, PROCESSES):
        ratios = [(ratio, name) for name in names if (ratio := results.ratio("tiny", own, name, at_once)) is not None]
        if ratios:
            best[own] = min(ratios)
    if not best:
        return None
    own = max(best, key=lambda own: best[own][0])
    ratio, name = best[own]
    cpu = results.ratio("tiny", name, own, at_once, "cpu_us") or 0.0
    how = "a process a core, " if own == PROCESSES else ""
    return ratio, f"{how}{name}, which takes {cpu:.1f} × the CPU"


def _added(results: Results, extras: Extras | None) -> list[Target]:
    def added(model: str, name: str) -> float | None:
        pairs = zip(
            results.samples.get((model, name, 1), []), results.samples.get((model, RAW_ONE, 1), []), strict=False
        )
        values = [served.p50_us - alone.p50_us for served, alone in pairs]
        return statistics.median(values) if values else None

    wide = extras.wide if extras else {}
    return [
        _at_most("p50 added to a raw run, one client: tiny, JSON", added("tiny", JSON), 80, "µs"),
        _at_most("the same: small, binary (12 kB)", added("small", BINARY), 80, "µs"),
        _at_most("the same: wide, binary (602 kB)", wide.get(BINARY), 400, "µs"),
        _at_most("the same: wide, JSON (1.2 MB)", wide.get(JSON), 8000, "µs"),
    ]


def _share(results: Results) -> list[Target]:
    rows = []
    for model, what, wanted in (("small", "1 ms model (small)", 93), ("mobile", "10 ms model (mobile)", 97)):
        for name, words in ((JSON, "JSON"), (BINARY, "binary")):
            counts = [n for of, whose, n in results.samples if of == model and whose == name and n >= 16]
            shares = [share for n in counts if (share := results.ratio(model, name, RAW_ALL, n)) is not None]
            share = min(shares, default=None)
            rows.append(_share_of(f"{what}, {words}, 16 and more at once: of the raw loop's runs", share, wanted))
    return rows


def _operation(extras: Extras) -> list[Target]:
    swap = extras.swap
    slower = swap.p99_during_us / swap.p99_before_us
    reached = f"{swap.failed} failed of {swap.requests:,}, {swap.swaps} swaps; p99 × {slower:.2f}"
    return [
        Target("hot swap under load", "0 failed; p99 ≤ 2 ×", reached, swap.failed == 0 and slower <= 2),
        _at_most("process to first answer, one tiny model", extras.start_seconds, 0.8, "s"),
        _at_most("memory (RSS) with it", extras.rss_mb, 70, "MB"),
        _at_most("a second session of the same weights: more memory", extras.second_percent, 15, "%"),
        _at_most("metrics read and access log on: more CPU a request", extras.log_percent, 5, "%"),
    ]


def _at_most(what: str, value: float | None, limit: float, unit: str) -> Target:
    return Target(
        what, f"≤ {limit:g} {unit}", "" if value is None else f"{_short(value)} {unit}", (value or 0) <= limit
    )


def _share_of(what: str, share: float | None, wanted: float) -> Target:
    return Target(what, f"≥ {wanted} %", "" if share is None else f"{100 * share:.0f} %", 100 * (share or 0) >= wanted)


def _at_least(what: str, best: tuple[float, str] | None, wanted: float) -> Target:
    reached = "" if best is None else f"{best[0]:.1f} × ({best[1]})"
    return Target(what, f"≥ {wanted:g} ×", reached, best is not None and best[0] >= wanted)


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"

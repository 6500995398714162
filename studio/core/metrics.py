"""What the server counts, second by second."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.core.histogram import Histogram


@dataclass(kw_only=True)
class Sample:
    """One target during one interval. `histogram` is of whole-request latency inside the server, in microseconds.

    `requests` counts all, `errors` those that failed; `rows` counts batch rows that were run, `executions` the runs.
    The `*_us` are sums over the interval.
    """

    target: str
    at: float
    seconds: float = 1.0
    requests: int = 0
    errors: int = 0
    rows: int = 0
    executions: int = 0
    queue_us: float = 0.0
    run_us: float = 0.0
    histogram: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, kw_only=True)
class RequestLine:
    """One answered request, for the live tail. `status` is the HTTP status; times in microseconds."""

    at: float
    target: str
    protocol: str
    status: int
    latency_us: float
    rows: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One second of the whole server: a sample for every target that had traffic."""

    at: float
    samples: tuple[Sample, ...]
    loaded: int = 0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a charted series: quantiles in milliseconds, None where nothing was answered."""

    at: float
    requests: float
    errors: float
    p50: float | None
    p95: float | None
    p99: float | None


def point_of(sample: Sample) -> Point:
    """Requests and errors become rates a second, the histogram becomes quantiles in milliseconds."""

    def ms(q: float) -> float | None:
        value = sample.histogram.quantile(q)
        return None if value is None else value / 1000.0

    return Point(
        at=sample.at,
        requests=sample.requests / sample.seconds,
        errors=sample.errors / sample.seconds,
        p50=ms(0.50),
        p95=ms(0.95),
        p99=ms(0.99),
    )

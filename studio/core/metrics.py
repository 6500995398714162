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


@dataclass(kw_only=True)
class ShadowFigures:
    """What a shadow gave for copies of the requests that `target` had answered. Both are full references.

    Of the copies some were `compared`, some `dropped` because the server had other work, some `failed`; `error` is the
    newest reason. Over the compared ones: `rows`; `ranked` rows of scores, and values that are no floats, of which the
    `same` number chose the same; `cosines` of the outputs that have one, their sum and the worst; `max_abs`, the
    largest difference of a value. `target_us` and `shadow_us` are the time in the runtime: of the run that the answered
    request was part of, and of the copy's own.
    """

    model: str
    target: str
    shadow: str
    compared: int = 0
    dropped: int = 0
    failed: int = 0
    rows: int = 0
    ranked: int = 0
    same: int = 0
    cosines: int = 0
    cosine_sum: float = 0.0
    cosine_min: float = 1.0
    max_abs: float = 0.0
    target_us: Histogram = field(default_factory=Histogram)
    shadow_us: Histogram = field(default_factory=Histogram)
    error: str = ""

    @property
    def agreement(self) -> float | None:
        """The part of the rows on which both choose the same; None where nothing is chosen."""
        return self.same / self.ranked if self.ranked else None

    def add(self, other: ShadowFigures) -> None:
        """Take in what was seen in another interval."""
        for name in ("compared", "dropped", "failed", "rows", "ranked", "same", "cosines", "cosine_sum"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cosine_min = min(self.cosine_min, other.cosine_min)
        self.max_abs = max(self.max_abs, other.max_abs)
        self.target_us.merge(other.target_us)
        self.shadow_us.merge(other.shadow_us)
        self.error = other.error or self.error


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One second of the whole server: a sample for every target that had traffic, figures of every shadow that ran.

    `memory` is resident, `shared` the part of it that other processes may have too, in bytes.
    """

    at: float
    samples: tuple[Sample, ...]
    loaded: int = 0
    memory: int = 0
    shared: int = 0
    shadows: tuple[ShadowFigures, ...] = ()


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

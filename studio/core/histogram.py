"""Latency histograms: log-linear buckets, exact to 1/32 of a value, mergeable, sparse.

The layout is that of HdrHistogram: within each power of two, `SUB` equal buckets. Values are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SUB_BITS = 5
SUB = 1 << SUB_BITS


def bucket_of(microseconds: float) -> int:
    """Index of the bucket that holds a value; values below 1 us count as 0."""
    value = int(microseconds)
    if value < SUB:
        return max(value, 0)
    shift = value.bit_length() - SUB_BITS - 1
    return (shift << SUB_BITS) + (value >> shift)


def bucket_bounds(index: int) -> tuple[float, float]:
    """Lower (inclusive) and upper (exclusive) bound of a bucket in microseconds."""
    if index < SUB:
        return float(index), float(index + 1)
    shift = (index >> SUB_BITS) - 1
    low = (index - (shift << SUB_BITS)) << shift
    return float(low), float(low + (1 << shift))


@dataclass
class Histogram:
    """Counts by bucket. Adding and merging are O(1) and O(buckets)."""

    counts: dict[int, int] = field(default_factory=dict)

    def add(self, microseconds: float, times: int = 1) -> None:
        index = bucket_of(microseconds)
        self.counts[index] = self.counts.get(index, 0) + times

    def merge(self, other: Histogram | Mapping[int, int]) -> None:
        for index, count in (other.counts if isinstance(other, Histogram) else other).items():
            self.counts[index] = self.counts.get(index, 0) + count

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def quantile(self, q: float) -> float | None:
        """The value in microseconds below which a share `q` of the values lies; None when empty.

        Interpolated within the bucket, so the error is below 1/32 of the value.
        """
        total = self.total
        if not total:
            return None
        rank = q * total
        seen = 0
        for index in sorted(self.counts):
            count = self.counts[index]
            if seen + count >= rank:
                low, high = bucket_bounds(index)
                return low + (high - low) * max(0.0, min(1.0, (rank - seen) / count))
            seen += count
        return bucket_bounds(max(self.counts))[1]

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole

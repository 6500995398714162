"""Recording of requests: what the user asked to be kept of what comes in at the endpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DEFAULT_ROWS = 1000
DEFAULT_SECONDS = 3600.0
MOST_ROWS = 100_000
MOST_SECONDS = 30 * 24 * 3600.0
MOST_BYTES = 250_000_000
"""Bytes kept of one model at most, whatever the number of rows."""

NOT_RECORDED = b"x-studio-load"
"""Header of requests that Studio makes itself to measure with: they are not what users ask."""

_PART = re.compile(r"(\d{6,12})-\d{1,12}-v(\d{1,9})-(\d{1,9})\.npz", re.ASCII)

RecordingState = Literal["recording", "full", "over", "stopped"]


@dataclass(frozen=True, kw_only=True)
class RecordingPlan:
    """What is to be kept of one model: at most so many `rows` and `bytes`, `until` (Unix seconds), in `folder`.

    `started` in Unix seconds; `stopped`: the user ended it early.
    """

    model: str
    folder: str
    rows: int
    bytes: int
    started: float
    until: float
    stopped: bool = False


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is kept of one model, and whether more is being kept: `full` of rows or bytes, `over` time, or `stopped`."""

    plan: RecordingPlan
    state: RecordingState
    rows: int
    bytes: int


def part_name(number: int, process: int, version: int, rows: int) -> str:
    """The name of one file of a recording: `000001-4711-v3-64.npz` holds 64 rows that version 3 answered."""
    return f"{number:06d}-{process}-v{version}-{rows}.npz"


def part_of(name: str) -> tuple[int, int, int] | None:
    """Number, version and rows of a file of a recording; None for any other name."""
    found = _PART.fullmatch(name)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def recording_words(recordings: Sequence[Recording]) -> str:
    """`requests for digits (312 of 1000 rows)`; '' while nothing is recorded."""
    return ", ".join(f"requests for {one.plan.model} ({one.rows} of {one.plan.rows} rows)" for one in recordings)

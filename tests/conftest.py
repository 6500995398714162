"""What every area's tests share."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.pipeline.messages import IntakeResult

LONGEST_ID = 100


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start: shells let background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name long values by their hash: pytest puts a test's name into the environment, and no process can be started
    with one of over 128 kB."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_ID:
        data = val.encode("utf-8", "surrogatepass") if isinstance(val, str) else val
        return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:8]}"
    return None


@pytest.fixture
def format_row() -> Callable[..., None]:
    """Record what a conversion was seen to give, for docs/formats.md.

    `format_row(format=…, tried=…, result=IntakeResult, seconds=…)`. Rows are kept only while the table is being made
    (`make formats`); they hold what the worker reported and nothing that the test claims.
    """

    def record(*, format: str, tried: str, result: IntakeResult, seconds: float) -> None:
        folder = os.environ.get("STUDIO_FORMAT_ROWS")
        if folder:
            row = row_of(format, tried, result, seconds)
            (Path(folder) / f"{uuid.uuid4().hex}.json").write_text(json.dumps(row))

    return record


def row_of(format: str, tried: str, result: IntakeResult, seconds: float) -> dict[str, Any]:
    """One line of the table. `parity` is the worst relative error of any output, `batches` what it was compared on."""
    free = [spec.name for spec in result.signature.inputs if spec.shape and isinstance(spec.shape[0], str)]
    worst = result.parity.worst
    agreement = [one.top1_agreement for one in result.parity.outputs if one.top1_agreement is not None]
    return {
        "format": format,
        "tried": tried,
        "parity": worst.max_rel if worst else 0.0,
        "agreement": min(agreement) if agreement else None,
        "free_batch": bool(free),
        "batches": list(result.parity.batch_sizes),
        "seconds": seconds,
    }

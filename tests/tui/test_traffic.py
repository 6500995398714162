"""The traffic sparkline of the models table."""

from __future__ import annotations

from dataclasses import replace

from studio.core.metrics import Point
from studio.core.views import VariantRow, VersionRow
from studio.tui.widgets.version_text import TRAFFIC_WIDTH, traffic

ROW = VersionRow(
    model="digits",
    version=2,
    state="serving",
    created="2026-01-01T00:00:00Z",
    format="onnx",
    size=1,
    p50=None,
    accuracy=None,
    fidelity=None,
    aliases=(),
    variants=tuple(VariantRow(variant=name, outcome="keep", sentence="", size=1) for name in ("fp32", "int8")),
    latest=True,
)


def point(at: float, requests: float) -> Point:
    return Point(at=at, requests=requests, errors=0, p50=1.0, p95=1.0, p99=1.0)


def test_it_adds_up_the_variants_of_the_last_seconds() -> None:
    points = {"digits:2-fp32": (point(999, 10), point(970.5, 3)), "digits:2-int8": (point(999, 10), point(985, 10))}
    shown = traffic(ROW, points, 1000.0)
    assert len(shown) == TRAFFIC_WIDTH
    assert shown[-1] == "█"
    assert shown.count("█") == 1
    assert "▅" in shown, "half the traffic is half as high"


def test_no_traffic_shows_nothing() -> None:
    assert traffic(ROW, {}, 1000.0) == ""
    assert traffic(ROW, {"digits:2-fp32": (point(900, 10),)}, 1000.0) == "", "old traffic is over"
    assert traffic(replace(ROW, version=1), {"digits:2-fp32": (point(999, 10),)}, 1000.0) == ""

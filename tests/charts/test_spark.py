from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from studio.tui.charts.spark import sparkline


@given(st.lists(st.one_of(st.none(), st.floats())), st.integers(0, 60), st.booleans())
def test_any_values_fill_the_width(values: list[float | None], width: int, ascii_only: bool) -> None:
    drawn = sparkline(values, width, ascii_only)
    assert len(drawn) == width
    assert not ascii_only or drawn.isascii()


def test_a_sparkline_reads_from_left_to_right() -> None:
    assert sparkline([1, 4, 8], 3) == "▂▅█"
    assert sparkline([1, None, 8], 5) == "  ▂ █"
    assert sparkline([0, 0], 2) == "▁▁"


def test_a_spike_survives_the_squeeze() -> None:
    assert "█" in sparkline([1.0] * 500 + [90.0] + [1.0] * 500, 8)

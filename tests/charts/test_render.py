from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.style import Style

from studio.tui.charts.frame import length, plain
from studio.tui.charts.raster import Series
from studio.tui.charts.render import Chart, header_height, render, render_strips

from .data import A, B, C, D, chart
from .golden import check

HERE = Path(__file__).parent
SIZES = [(26, 5), (43, 12), (65, 16), (120, 20)]

values = st.one_of(st.none(), st.floats(), st.just(7.0), st.floats(0.1, 100))
lines = st.lists(values, max_size=80)


@pytest.mark.parametrize("symbols", ["braille", "line", "ascii"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_two_series_as_drawn(symbols: str, width: int, height: int) -> None:
    drawn = plain(render(chart(A, B, symbols=symbols), width, height))
    check(HERE, f"two-{symbols}-{width}x{height}", drawn)


@pytest.mark.parametrize(("width", "height"), [(26, 7), (80, 12)])
def test_four_series_as_drawn(width: int, height: int) -> None:
    check(HERE, f"four-{width}x{height}", plain(render(chart(A, B, C, D, axis="elapsed"), width, height)))


def test_nothing_measured_as_drawn() -> None:
    empty = Series("A fp32", 0, [])
    check(HERE, "empty-43x10", plain(render(chart(empty), 43, 10)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(lines, min_size=0, max_size=4),
    st.integers(10, 300),
    st.integers(3, 60),
    st.sampled_from(["braille", "line", "ascii"]),
    st.sampled_from(["ago", "clock", "elapsed"]),
    st.sampled_from([0.0, -7.5, 1.76e9]),
)
def test_any_series_fills_any_size_exactly(
    series: list[list[float | None]], width: int, height: int, symbols: str, axis: str, start: float
) -> None:
    made = tuple(
        Series(f"{'ABCD'[n]} some variant", n, [(start + i * 0.7, v) for i, v in enumerate(points)])
        for n, points in enumerate(series)
    )
    drawn = Chart(
        title="p50", unit="ms", series=made, start=start, end=start + 60, better="lower", axis=axis, symbols=symbols
    )  # type: ignore[arg-type]
    result = render(drawn, width, height)
    assert len(result) == height
    assert all(length(line) == width for line in result)
    strips = render_strips(drawn, width, height, {"series0": Style(color="red")})
    assert [strip.cell_length for strip in strips] == [width] * height
    assert all(segment.style is None or segment.style.bgcolor is None for strip in strips for segment in strip)


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 200), st.integers(3, 40), st.integers(1, 4))
def test_a_legend_is_never_cut(width: int, height: int, count: int) -> None:
    """Every value in a header is a whole one, and none is shown beside a wrong letter."""
    drawn = chart(*(A, B, C, D)[:count])
    head = render(drawn, width, height)[: header_height(drawn, width, height)]
    whole = {"A": ("8.18", "8.2"), "B": ("5.06", "5.1"), "C": ("6.93", "6.9"), "D": ("2.94", "2.9")}
    text = plain(head)
    for letter, found in re.findall(r"([ABCD])(?: digits:\S+| digits:\S*…)? ([0-9.]+)", text):
        assert found in whole[letter]
    known = {value for pair in whole.values() for value in pair}
    assert all(word in known for word in re.findall(r"(?<![\d:-])\d+\.\d+", text))
    assert text.count(".") >= 1


def test_a_spike_of_one_point_survives_a_narrow_chart() -> None:
    flat = [(float(t), 5.0 if t != 333 else 50.0) for t in range(600)]
    for index in range(4):
        drawn = plain(render(chart(Series("x", index, flat), end=600.0, axis="elapsed"), 20, 12))
        top = drawn.split("\n")[2:5]
        assert any(ord(c) > 0x2800 and c not in "⠁⠂⠄⡀" for c in "".join(top)), drawn


def test_the_four_series_read_without_colour() -> None:
    flat = [(float(t), 5.3) for t in range(61)]
    frame = Series("y", 0, [(-1.0, 4.0), (0.0, None), (61.0, 6.0)])
    plots = [
        plain(render(chart(Series("x", index, flat), frame, symbols=symbols), 40, 8)[1:])
        for symbols in ("braille", "line", "ascii")
        for index in range(4)
    ]
    assert len(set(plots)) == len(plots)


def test_gaps_are_not_joined() -> None:
    broken = Series("A", 0, [(0.0, 5.0), (20.0, 5.0), (30.0, None), (40.0, 5.0), (60.0, 5.0)])
    apart = Series("A", 0, [(0.0, 5.0), (20.0, 5.0), (40.0, 5.0), (60.0, 5.0)])
    joined = plain(render(chart(apart, symbols="ascii"), 66, 8))
    for drawn in (
        plain(render(chart(broken, symbols="ascii"), 66, 8)),
        plain(render(chart(apart, symbols="ascii", gap=15.0), 66, 8)),
    ):
        assert drawn.count("*") < joined.count("*") - 15


def test_values_outside_of_the_window_do_not_stretch_the_axis() -> None:
    series = Series(A.label, 0, [(-30.0, 1e6), *A.points])
    narrow = chart(series, gap=5.0)
    assert plain(render(narrow, 60, 12)) == plain(render(chart(A), 60, 12))

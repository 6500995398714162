from __future__ import annotations

import re
from typing import Any

from textual.app import App, ComposeResult

from studio.tui.charts.frame import Line, plain
from studio.tui.charts.live import LiveChart
from studio.tui.charts.painted import Painted
from studio.tui.charts.raster import Series

from .data import A, B


class ChartApp(App[None]):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.chart = LiveChart("p50", "ms", "lower", **options)

    def compose(self) -> ComposeResult:
        yield self.chart

    def lines(self, part: str) -> tuple[Line, ...]:
        return self.chart.query_one(f"#{part}", Painted).lines


def until(now: float, series: Series = A) -> Series:
    return Series(series.label, series.index, [point for point in series.points if point[0] <= now])


def repaints(app: ChartApp, part: str) -> list[int]:
    """Counts, from now on, the frames in which a part's lines were new."""
    widget, counted = app.chart.query_one(f"#{part}", Painted), [0]
    show = widget.show_lines

    def counting(lines: Any) -> None:
        counted[0] += tuple(lines) != widget.lines
        show(lines)

    widget.show_lines = counting  # type: ignore[method-assign]
    return counted


async def test_the_body_stands_still_until_the_window_moves_by_a_chunk() -> None:
    app = ChartApp(axis="ago")
    async with app.run_test(size=(72, 14)) as pilot:
        app.chart.show([A, B], now=60)
        await pilot.pause()
        body, tip = repaints(app, "body"), repaints(app, "tip")
        for frame in range(60):
            now = 60 + frame / 2
            more = [(60 + n / 2, 8.0 + n % 3) for n in range(frame + 1)]
            app.chart.show([Series("A", 0, [*A.points, *more]), B], now=now)
            await pilot.pause()
    assert tip[0] > 40
    assert 3 <= body[0] <= 9  # half a minute is six chunks of five seconds


async def test_what_grew_step_by_step_is_what_is_drawn_at_once() -> None:
    """Also across the seam: the line into the tip leaves the body where it would without a seam."""
    zigzag = [(float(t), 4.0 + 6.0 * (t % 2)) for t in range(200)]
    app = ChartApp(axis="clock")
    async with app.run_test(size=(72, 14)) as pilot:
        for now in range(100, 160):
            app.chart.show([Series("A", 0, zigzag[: now + 1])], now=now + 0.9)  # points come late
            await pilot.pause()
            grown = app.lines("body"), app.lines("tip")
            app.chart.symbols = "braille"  # draws everything anew
            assert (app.lines("body"), app.lines("tip")) == grown
        text = plain([(*body, *tip) for body, tip in zip(*grown, strict=True)])
    assert all(len(line) <= 72 for line in text.split("\n"))
    assert re.search(r":15|:30|:45", text)


async def test_points_that_come_late_are_painted_into_the_body() -> None:
    app = ChartApp()
    async with app.run_test(size=(72, 14)) as pilot:
        app.chart.show([until(30)], now=60)
        await pilot.pause()
        before = app.lines("body")
        app.chart.show([A], now=60)
        await pilot.pause()
        assert app.lines("body") != before


async def test_a_standing_window_has_no_tip_and_counts_from_its_start() -> None:
    app = ChartApp(axis="elapsed")
    async with app.run_test(size=(72, 14)) as pilot:
        app.chart.start, app.chart.span = 0.0, 60.0
        app.chart.show([A])
        await pilot.pause()
        assert "0 s" in plain(app.lines("body")[-1:]) and "60 s" in plain(app.lines("body")[-1:])
        assert app.chart.query_one("#tip").size.width == 0


async def test_a_chart_follows_its_size_its_symbols_and_odd_series() -> None:
    app = ChartApp()
    async with app.run_test(size=(72, 14)) as pilot:
        for points in ([], [(1.0, None)], [(1.0, float("nan")), (2.0, 1e308)], [(5.0, 5.0)] * 3, A.points):
            app.chart.show([Series("A", 0, points)])
            await pilot.pause()
        await pilot.resize_terminal(30, 6)
        await pilot.pause()
        assert app.chart.size == (30, 6)
        app.chart.symbols = "ascii"
        await pilot.pause()
        assert "*" in plain(app.lines("body")) + plain(app.lines("tip"))
        await pilot.resize_terminal(10, 3)
        await pilot.pause()
        assert len(app.lines("body")) == 2

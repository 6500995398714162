"""Compare: two to four variants side by side, measured on the same inputs, with the verdict in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Resize
from textual.widget import Widget

from studio.core.comparison import Comparison
from studio.core.metrics import Point
from studio.core.views import VersionRow
from studio.tui import text
from studio.tui.charts.frame import Line
from studio.tui.charts.frame import length as size
from studio.tui.charts.live import LiveChart
from studio.tui.charts.painted import Painted
from studio.tui.charts.raster import Series
from studio.tui.charts.render import Symbols
from studio.tui.widgets.compare_cards import arm_labels, card_lines
from studio.tui.widgets.compare_words import (
    Promotion,
    gate_lines,
    gate_table,
    measured_lines,
    promotion,
    promotion_line,
    wrap,
)
from studio.tui.widgets.verdict_table import VerdictTable

_WIDE, _TALL = 116, 30  # cells: from here on gates stand beside the table, and sections have air between them

_CHARTS: tuple[tuple[str, str, str, Callable[[Point], float | None]], ...] = (
    ("p50", "p50", "ms", lambda point: point.p50),
    ("p99", "p99", "ms", lambda point: point.p99),
    ("throughput", "throughput", "req/s", lambda point: point.requests),
)


class CompareView(Widget):
    """Shows one comparison, or what to do to get one. Knows no engine: whoever owns the data calls `show`."""

    DEFAULT_CSS: ClassVar[str] = """
    CompareView { layout: vertical; height: 1fr; width: 1fr; }
    CompareView > #compare-empty { display: none; height: 1fr; }
    CompareView > #compare-main { height: 1fr; scrollbar-size-vertical: 1; }
    CompareView > #compare-foot { height: auto; }
    CompareView.-empty > #compare-empty { display: block; }
    CompareView.-empty > #compare-main, CompareView.-empty > #compare-foot { display: none; }
    CompareView #compare-charts { height: 1fr; min-height: 5; }
    CompareView.-many #compare-charts { min-height: 7; }
    CompareView #compare-charts LiveChart { margin-right: 2; }
    CompareView #compare-charts #chart-throughput { margin-right: 0; }
    CompareView #compare-low { height: auto; layout: vertical; }
    CompareView.-wide #compare-low { layout: horizontal; }
    CompareView #compare-side { height: auto; width: 1fr; }
    CompareView.-wide #compare-side { width: 42; margin-left: 3; }
    CompareView.-tall #compare-charts { margin: 1 0; }
    CompareView.-tall #compare-foot { margin-top: 1; }
    CompareView.-tall #compare-verdict { margin-top: 1; }
    """

    def __init__(self, *, symbols: Symbols = "braille", id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.comparison: Comparison | None = None
        self.marked: tuple[str, ...] = ()
        self.versions: tuple[VersionRow, ...] = ()
        self._symbols: Symbols = symbols
        self._empty = Painted(id="compare-empty")
        self._cards, self._verdict = Painted(id="compare-cards"), Painted(id="compare-verdict")
        self._table, self._side = VerdictTable(id="compare-table"), Painted(id="compare-side")
        self._foot = Painted(id="compare-foot")
        self._charts = [
            LiveChart(
                title,
                unit,
                "higher" if name == "throughput" else "lower",
                axis="elapsed",
                symbols=symbols,
                id=f"chart-{name}",
            )
            for name, title, unit, _ in _CHARTS
        ]

    def compose(self) -> ComposeResult:
        yield self._empty
        with VerticalScroll(id="compare-main"):
            yield self._cards
            yield self._verdict
            with Horizontal(id="compare-charts"):
                yield from self._charts
            with Vertical(id="compare-low"):
                yield self._table
                yield self._side
        yield self._foot

    @property
    def promotion(self) -> Promotion:
        """What `p` would do now, or why it does nothing."""
        return promotion(self.comparison, self.versions)

    def show(
        self, comparison: Comparison | None, marked: Sequence[str] = (), versions: Sequence[VersionRow] = ()
    ) -> None:
        """Show a comparison, running or finished; without one, what is `marked` and the next key.

        `versions` are where sizes, aliases and accuracies of the cards come from; arms not among them go without.
        """
        self.comparison, self.marked, self.versions = comparison, tuple(marked), tuple(versions)
        self._draw()

    def on_mount(self) -> None:
        self._draw()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width >= _WIDE, "-wide")
        self.set_class(event.size.height >= _TALL, "-tall")
        self._draw()

    def _draw(self) -> None:
        width = self.size.width
        if not self.is_mounted or width < 1:
            return
        comparison = self.comparison
        self.set_class(comparison is None, "-empty")
        self.set_class(comparison is not None and len(comparison.arms) > 2, "-many")
        if comparison is None:
            self._empty.show_lines(_centred(empty_lines(self.marked, max(1, width - 4)), width, self.size.height))
            return
        inner = width - 1  # the scroll bar's column
        self._cards.show_lines(card_lines(comparison, self.versions, inner))
        self._verdict.show_lines(state_lines(comparison, inner, brief=not self.has_class("-tall")))
        self._table.show(comparison, compact=not self.has_class("-tall"))
        side = 42 if self.has_class("-wide") else inner
        state = promotion_line(self.promotion, width)
        measured = measured_lines(comparison, width)
        self._side.show_lines((gate_table if self.has_class("-wide") else gate_lines)(comparison.gates, side))
        self._foot.show_lines([state, *measured[: max(1, self.size.height // 3)]])
        self._draw_charts(comparison)

    def _draw_charts(self, comparison: Comparison) -> None:
        labels = arm_labels(comparison)
        times = [point.at for arm in comparison.arms for point in arm.series]
        start = min(times, default=0.0)
        length = max(comparison.plan.seconds, max(times, default=start) - start)
        for chart, (_, _, _, value) in zip(self._charts, _CHARTS, strict=True):
            chart.start, chart.span = start, length
            chart.gap = max(5.0, 4 * comparison.plan.slice_seconds * len(comparison.arms))
            chart.show(
                [
                    Series(label, n, [(point.at, value(point)) for point in arm.series])
                    for n, (label, arm) in enumerate(zip(labels, comparison.arms, strict=True))
                ]
            )


def empty_lines(marked: Sequence[str], width: int) -> list[Line]:
    """What to do to get a comparison: one next key."""
    if len(marked) >= 2:
        named = "   ".join(f"{'ABCD'[n]} {reference}" for n, reference in enumerate(marked[:4]))
        words = ["Press c to compare what is marked.", named]
    elif marked:
        words = ["Mark one more variant with space on Models, then press c.", f"A {marked[0]}"]
    else:
        words = [
            "Nothing to compare yet.",
            "Mark two variants with space on Models, then press c.",
        ]
    lines = wrap(words[0], width, "strong")
    return [*lines, *wrap(words[1], width, "label")]


def _centred(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    above: list[Line] = [()] * ((height - len(lines)) // 2)
    return [*above, *(((" " * ((width - size(line)) // 2), ""), *line) for line in lines)]


def state_lines(comparison: Comparison, width: int, brief: bool = False) -> list[Line]:
    """One sentence: the verdict, or how far the measuring is, or what went wrong, why and what to do.

    `brief` leaves out the verdict so far while measuring.
    """
    if comparison.state == "failed" or comparison.problem is not None:
        words = comparison.problem.sentence() if comparison.problem else "The comparison failed."
        return wrap("✗ " + words, width, "bad")
    if comparison.state == "queued":
        return [(("Waiting for its turn: another comparison runs.", "label"),)]
    if comparison.state == "running":
        share = comparison.elapsed / comparison.plan.seconds if comparison.plan.seconds > 0 else 0.0
        words = f"Measuring, {comparison.elapsed:.0f} of {comparison.plan.seconds:.0f} s "
        bar = text.bar(share, max(4, min(24, width - len(words))))
        line: Line = ((words, "strong"), (bar, "series1"))
        return [line] if brief else [line, *wrap(comparison.verdict, width, "label", most=1)]
    if comparison.state == "cancelled":
        return wrap("Cancelled. " + comparison.verdict, width, "warn")
    return wrap(comparison.verdict or "Done.", width, "strong", most=2)

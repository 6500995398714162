"""The verdict table: figures are quiet, the verdict is not. It says in words, symbol and colour which side is better.

▲ another arm is better than the baseline A, ▼ the baseline is better, = they can not be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studio.core.comparison import Comparison, Row
from studio.core.manifest import INPUTS_WORDS, Fidelity, Interval
from studio.tui import text
from studio.tui.charts.frame import Line, Run, length, shorten
from studio.tui.charts.painted import Painted
from studio.tui.charts.scale import value_label
from studio.tui.widgets.compare_words import gate_value


@dataclass(frozen=True)
class _Shown:
    """A row as it is printed: name, unit, one text an arm, symbol and claim, and what backs it."""

    name: str
    unit: str
    values: tuple[str, ...]
    claim: tuple[Run, Run]
    ratio: Interval | None = None
    rest: str = ""


class VerdictTable(Painted):
    """Has no cursor: there is nothing to choose here, and the eye is to land on the verdict."""

    def show(self, comparison: Comparison, compact: bool = False) -> None:
        self._comparison, self._compact = comparison, compact
        self._draw()

    def on_mount(self) -> None:
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        comparison = getattr(self, "_comparison", None)
        if comparison is not None and self.size.width:
            self.show_lines(verdict_lines(comparison, self.size.width, self._compact))


def verdict_lines(comparison: Comparison, width: int, compact: bool = False) -> list[Line]:
    """Header and one line a row. Intervals are said in full where all fit, else in brackets, explained in the header.

    `compact` leaves out the lines of fidelity that the gates say again.
    """
    shown = [_row(comparison, row) for row in comparison.rows]
    have = {row.metric.casefold() for row in comparison.rows}
    fidelity = fidelity_rows(comparison.fidelity, len(comparison.arms), compact)
    shown += [row for row in fidelity if row.name.casefold() not in have]
    if not shown:
        waits = comparison.state in ("queued", "running")
        return [(("the verdict comes with the first figures" if waits else "nothing was measured", "label"),)]
    names = max(len(row.name) + len(row.unit) + bool(row.unit) for row in shown)
    columns = [
        max(len(arm.label), 4, *(len(row.values[n]) for row in shown if n < len(row.values)))
        for n, arm in enumerate(comparison.arms)
    ]
    claims = max((length(row.claim) for row in shown if row.ratio is not None), default=0)
    room = width - names - sum(columns)
    longest = max((length(ratio_runs(row.ratio, full=True)) for row in shown if row.ratio is not None), default=0)
    full = claims + 2 + longest + 2 * len(columns) + 2 <= room
    gap = "   " if claims + 2 + (longest if full else 18) + 3 * (len(columns) + 1) <= room else "  "
    explained = "" if full or not longest else f"{'verdict':<{claims}}ratio (95 % CI)"
    if len(explained) + 2 > room - len(gap) * (len(columns) + 1):
        explained = ""
    head: list[Run] = [(" " * names, "")]
    for n, (arm, size) in enumerate(zip(comparison.arms, columns, strict=True)):
        head.append((f"{gap}{arm.label:>{size}}", f"letter{n % 4}"))
    lines: list[Line] = [(*head, (f"{gap}  {explained or 'verdict'}", "label"))]
    for row in shown:
        line: list[Run] = [(row.name, ""), (f" {row.unit}" if row.unit else "", "label")]
        line.append((" " * (names - length(line)), ""))
        for n, size in enumerate(columns):
            line.append((f"{gap}{row.values[n] if n < len(row.values) else '':>{size}}", "label"))
        line.append((gap, ""))
        lines.append((*line, *_said(row, claims, full, width - length(line))))
    return lines


def _said(row: _Shown, claims: int, full: bool, room: int) -> list[Run]:
    """Symbol and claim, then the ratio in a column of its own, or the rest of the words; whole or not at all."""
    symbol, (words, role) = row.claim
    runs: list[Run] = [symbol, (shorten(words, room - 2), role)]
    if row.ratio is not None:
        more = ratio_runs(row.ratio, full)
        pad = max(2, claims + 2 - length(runs))
        for part in (more, more[:1]):
            if length(runs) + pad + length(part) <= room:
                return [*runs, (" " * pad, ""), *part]
    elif row.rest and length(runs) + 2 + len(row.rest) <= room:
        runs += [("  ", ""), (row.rest, "label")]
    return runs


def _row(comparison: Comparison, row: Row) -> _Shown:
    symbol, role = _symbol(comparison, row)
    claim, _, rest = row.words.partition(", ")
    values = tuple(value_words(value, row.unit) for value in row.values)
    unit = "MB" if row.unit == "bytes" else row.unit
    return _Shown(row.metric, unit, values, ((f"{symbol} ", role), (claim, role)), row.ratio, rest)


def _symbol(comparison: Comparison, row: Row) -> tuple[str, str]:
    if row.better:
        first = comparison.arms[0].label if comparison.arms else "A"
        return ("▼", "bad") if row.better == first else ("▲", "good")
    if row.ratio is not None or "not distinguishable" in row.words or "same" in row.words.split():
        return "=", "even"
    return " ", "label"


def value_words(value: float | None, unit: str) -> str:
    """A value as the table shows it: bytes as MB, shares near 1 with enough digits, else three significant ones."""
    if value is None:
        return text.NONE
    return value_label(value / 1e6) if unit == "bytes" else value_label(value)


def ratio_runs(ratio: Interval, full: bool) -> list[Run]:
    """`1.83×  95 % CI 1.79–1.88`, or `1.83× (1.79–1.88)`."""
    interval = f"{ratio.low:.2f}–{ratio.high:.2f}"
    return [(f"{ratio.value:.2f}×", ""), (f"  95 % CI {interval}" if full else f" ({interval})", "label")]


def fidelity_rows(fidelity: Sequence[Fidelity | None], arms: int, compact: bool = False) -> list[_Shown]:
    """Agreement of each arm with its reference, worst output, and accuracy where there were labels."""
    known = [fidelity[n] if n < len(fidelity) else None for n in range(arms)]
    if not any(known):
        return []
    some = next(one for one in known if one is not None)
    over = f"over {some.samples} {INPUTS_WORDS[some.inputs]}"
    worst = [one.worst if one else None for one in known]
    rows = [
        ("cosine", tuple(gate_value(one.cosine) if one else text.NONE for one in worst), f"with its reference, {over}"),
        ("max |Δ|", tuple(value_label(one.max_abs) if one else text.NONE for one in worst), "worst output, absolute"),
        (
            "top-1 agree",
            tuple(text.share(one.top1_agreement) if one else text.NONE for one in worst),
            "same first choice as its reference",
        ),
        ("accuracy", tuple(text.share(one.accuracy) if one else text.NONE for one in known), _accuracy(known)),
    ]
    return [
        _Shown(name, "", values, (("  ", "label"), (words, "label")))
        for name, values, words in rows
        if any(value != text.NONE for value in values) and not (compact and name in ("max |Δ|", "top-1 agree"))
    ]


def _accuracy(known: Sequence[Fidelity | None]) -> str:
    first = known[0].accuracy if known and known[0] else None
    parts: list[str] = []
    for n, one in enumerate(known[1:], 1):
        if first is not None and one is not None and one.accuracy is not None:
            points = 100 * (one.accuracy - first)
            side = "as A" if abs(points) < 0.005 else f"{abs(points):.2f} pt {'higher' if points > 0 else 'lower'}"
            parts.append(f"{'ABCD'[n % 4]} {side}")
    return ", ".join(parts) or "on the labelled inputs"

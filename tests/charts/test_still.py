from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studio.tui.charts.still import Candidate, as_text, bars, histogram, pareto, pareto_front

from .golden import check

HERE = Path(__file__).parent
CANDIDATES = [
    Candidate("fp32", 9.6, 1.0),
    Candidate("fp16", 9.1, 0.99995),
    Candidate("int8", 5.2, 0.991),
    Candidate("int8-static", 5.9, 0.9905),
    Candidate("int4", 7.2, 0.94),
]
BINS = [(1 + 0.1 * n, 1.1 + 0.1 * n, max(0, 100 - 5 * abs(n - 12)) + (3 if n > 50 else 0)) for n in range(60)]


def test_the_front_holds_what_no_other_beats() -> None:
    assert pareto_front(CANDIDATES) == {"fp32", "fp16", "int8"}
    assert pareto_front([Candidate("a", 1, 10), Candidate("b", 1, 20)], better="lower") == {"a"}
    assert pareto_front([Candidate("a", 1, 1), Candidate("b", 1, 1)]) == {"a", "b"}


@pytest.mark.parametrize(("width", "height"), [(80, 16), (50, 12)])
def test_pareto_as_drawn(width: int, height: int) -> None:
    check(HERE, f"pareto-{width}x{height}", pareto(CANDIDATES, width=width, height=height))


def test_histogram_as_drawn() -> None:
    check(HERE, "histogram-70x12", histogram(BINS, width=70, height=12))


def test_bars_as_drawn() -> None:
    check(HERE, "bars-60", bars(["fp32", "fp16", "int8-static"], [9.6, 7.11, None], width=60, unit="ms"))


@pytest.mark.parametrize(("width", "height"), [(10, 3), (24, 6), (60, 12), (200, 50)])
def test_drawings_keep_to_their_size(width: int, height: int) -> None:
    for drawn in (pareto(CANDIDATES, width=width, height=height), histogram(BINS, width=width, height=height)):
        assert len(drawn.split("\n")) == height
        assert max(map(len, drawn.split("\n"))) <= width
    assert max(map(len, bars(["a long label indeed"], [5.0], width=width).split("\n"))) <= width


@pytest.mark.parametrize("values", [[], [(float("nan"), 1.0)], [(5.0, 5.0)] * 3, [(-1.0, 1e300), (1e300, -1.0)]])
def test_odd_values_are_drawn_too(values: list[tuple[float, float]]) -> None:
    made = [Candidate(f"c{n}", *value) for n, value in enumerate(values)]
    assert pareto(made, width=60, height=12).count("\n") == 11
    assert histogram([(a, b, 3) for a, b in values], width=60, height=12).count("\n") == 11


def test_colours_are_ansi_and_become_rich_styles() -> None:
    drawn = pareto(CANDIDATES, width=60, height=12, color=True)
    assert "\x1b[" in drawn and "\x1b[" not in pareto(CANDIDATES, width=60, height=12)
    text = as_text(drawn)
    assert "\x1b" not in text.plain and text.spans


def test_plotext_is_not_imported_before_something_is_drawn() -> None:
    code = (
        "import sys, studio.tui.charts.still, studio.tui.charts.live\n"
        "print('plotext' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_threads_do_not_draw_into_each_other() -> None:
    alone = pareto(CANDIDATES, width=80, height=16), histogram(BINS, width=70, height=12)
    with ThreadPoolExecutor(4) as pool:
        both = [
            (pool.submit(pareto, CANDIDATES, width=80, height=16), pool.submit(histogram, BINS, width=70, height=12))
            for _ in range(20)
        ]
        assert all((one.result(), other.result()) == alone for one, other in both)

from __future__ import annotations

from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.tui.charts.scale import Scale, bounds_of, scale_of, step_of, time_ticks, value_label

numbers = st.floats(-1e300, 1e300, allow_nan=False)


@given(st.lists(numbers, max_size=20), st.integers(0, 60))
def test_ticks_lie_within_the_bounds_and_the_bounds_hold_the_values(values: list[float], rows: int) -> None:
    scale = scale_of(values, rows)
    assert scale.low < scale.high
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    assert len(scale.ticks) == len(scale.labels)
    assert all(0.0 <= scale.fraction(value) <= 1.0 for value in values)
    slack = (scale.high - scale.low) * 1e-6
    assert all(scale.low - slack <= value <= scale.high + slack for value in values)


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=20), st.integers(3, 60))
def test_an_axis_has_at_least_one_tick_and_no_two_labels_alike(values: list[float], rows: int) -> None:
    scale = scale_of(values, rows)
    assert 1 <= len(scale.ticks) <= max(2, rows)
    assert len(set(scale.labels)) == len(scale.labels)
    assert scale.label_width <= 8


@pytest.mark.parametrize(
    ("span", "count", "step"),
    [(10, 5, 2), (11, 5, 5), (16, 5, 5), (1, 4, 0.5), (60, 6, 10), (0.3, 3, 0.1), (7e9, 4, 2e9)],
)
def test_steps_are_1_2_5(span: float, count: int, step: float) -> None:
    assert step_of(span, count) == pytest.approx(step)


def test_zero_is_shown_when_the_values_come_near_it() -> None:
    assert bounds_of([1.0, 10.0])[0] == 0.0
    assert bounds_of([9.0, 10.0])[0] > 8.0
    assert bounds_of([-10.0, -1.0])[1] == 0.0


def test_a_constant_series_lies_inside_of_its_bounds() -> None:
    low, high = bounds_of([5.0, 5.0])
    assert low < 5.0 < high
    low, high = bounds_of([0.0])
    assert low < 0.0 < high


def test_an_axis_is_held_while_the_values_fit_and_let_go_when_they_do_not() -> None:
    first = scale_of([4.0, 16.0], 10)
    assert scale_of([4.5, 15.0], 10, first) is first
    assert scale_of([4.0, 40.0], 10, first) is not first
    assert scale_of([4.0, 5.0], 10, first) is not first


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (None, "–"), (float("nan"), "–"), (0, "0"), (9.3, "9.30"), (17.64, "17.6"), (124, "124"), (-5.2, "−5.20"),
        (1234, "1234"), (12345, "12.3k"), (0.083, "0.0830"), (0.412, "0.412"), (2.5e-7, "2e-7"), (1e300, "1e300"),
        (999.7, "1000"), (9.999, "10.0"), (5_000_000, "5000k"),
    ],
)  # fmt: skip
def test_values_have_three_digits(value: float | None, label: str) -> None:
    assert value_label(value) == label


@given(st.one_of(st.none(), st.floats()))
def test_values_are_short(value: float | None) -> None:
    assert 1 <= len(value_label(value)) <= 7


@given(st.floats(-1e9, 1e10), st.floats(0.001, 1e8), st.integers(1, 300), st.sampled_from(["ago", "clock", "elapsed"]))
def test_time_labels_are_whole_inside_and_apart(start: float, span: float, columns: int, axis: str) -> None:
    free = 0
    for column, text in time_ticks(start, start + span, columns, axis, zone=UTC):  # type: ignore[arg-type]
        assert column >= free
        assert column + len(text) <= columns
        free = column + len(text) + 2


def test_time_labels_say_what_people_say() -> None:
    def said(axis: str, start: float, end: float, columns: int = 60) -> list[str]:
        return [text for _, text in time_ticks(start, end, columns, axis, zone=UTC)]  # type: ignore[arg-type]

    assert said("ago", 40, 100) == ["−60 s", "−50 s", "−40 s", "−30 s", "−20 s", "−10 s", "now"]
    assert said("ago", 0, 60, 12) == ["−1 min", "now"]
    assert said("clock", 0, 60, 40) == ["00:00", ":15", ":30", ":45", "00:01"]
    assert said("elapsed", 100, 160, 24) == ["0 s", "30 s", "60 s"]
    assert said("elapsed", 0, 600, 60) == ["0 s", "2 min", "4 min", "6 min", "8 min", "10 min"]


def test_a_scale_clamps_what_lies_outside() -> None:
    scale = Scale(0.0, 10.0, (), ())
    assert (scale.fraction(-5), scale.fraction(5), scale.fraction(50)) == (0.0, 0.5, 1.0)

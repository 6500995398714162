"""distilled: a narrower network that learns from the original, its teacher, for many epochs.

It begins as the original with half of its channels taken out, and is taught with the original's scores, softened by a
temperature, which tell more of each row than its label does. On small sets of samples it keeps far more than the same
network trained on labels alone.
"""

from __future__ import annotations

from typing import Any

from studio.optimize import students
from studio.optimize.base import Given, Option, Recipe, Work


def applies(model: Any, given: Given) -> str:
    """'' or why there is nothing to distil."""
    return students.why_not(model, given, "distil")


def apply(work: Work) -> dict[str, str]:
    """Prune, teach with the original's answers, write the graph. Raises Refused."""
    return students.make(work, work.number("temperature"))


RECIPE = Recipe(
    name="distilled",
    title="half of the channels, taught by the original",
    applies=applies,
    apply=apply,
    options=(
        *students.options(amount=0.5, epochs=100, rate=2e-3, labels=0.1),
        Option(name="temperature", default=2.0, low=0.5, high=50.0, help="how much scores are softened"),
    ),
    tools=students.TOOLS,
    trains=True,
)

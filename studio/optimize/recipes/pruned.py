"""pruned: whole channels taken out of a torch module, which is then trained for a few epochs to make up for it.

What is left is an ordinary, narrower network: unlike weights set to zero (`sparse`), it takes less time. Without
training it would be of no use: a MobileNet that lost a quarter of its channels fell from 96 % to 10 %.
"""

from __future__ import annotations

from typing import Any

from studio.optimize import students
from studio.optimize.base import Given, Recipe, Work


def applies(model: Any, given: Given) -> str:
    """'' or why there is nothing to prune."""
    return students.why_not(model, given, "prune")


def apply(work: Work) -> dict[str, str]:
    """Prune, train towards labels and the original's answers alike, write the graph. Raises Refused."""
    return students.make(work, temperature=1.0)


RECIPE = Recipe(
    name="pruned",
    title="fewer channels, trained a little",
    applies=applies,
    apply=apply,
    options=students.options(amount=0.25, epochs=20, rate=1e-3, labels=0.5),
    tools=students.TOOLS,
    trains=True,
)

"""int8-weights: weights of matrix products in 8 bits, one scale for each block; activations stay 32-bit floats.

A quarter of the size at the best fidelity of all the integer recipes, since no activation is rounded by its range.
"""

from __future__ import annotations

from studio.optimize import blocks
from studio.optimize.base import Recipe, Work


def apply(work: Work) -> dict[str, str]:
    """Write the graph with 8-bit weights. Raises Refused."""
    return blocks.apply(work, bits=8)


RECIPE = Recipe(
    name="int8-weights",
    title="8-bit weights in blocks",
    applies=blocks.applies,
    apply=apply,
    options=blocks.options(32),
)

"""int4: weights of matrix products in 4 bits, one scale for each block of 32; an eighth of the size, nearly.

For models whose weights are read more often than multiplied: large language models. At the sizes that are served from a
processor's cache nothing gets faster, and small transformers lose a few points of cosine: see int8-weights.
"""

from __future__ import annotations

from studio.optimize import blocks
from studio.optimize.base import Recipe, Work


def apply(work: Work) -> dict[str, str]:
    """Write the graph with 4-bit weights. Raises Refused."""
    return blocks.apply(work, bits=4)


RECIPE = Recipe(
    name="int4", title="4-bit weights in blocks", applies=blocks.applies, apply=apply, options=blocks.options(32)
)

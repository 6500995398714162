"""Making variants of a graph: `recipes/` holds what can be made, `base` what a recipe is, the rest their tools."""

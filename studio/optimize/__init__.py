"""Recipes that make variants of a graph: one module each. `studio.optimize.base.recipes()` finds them."""

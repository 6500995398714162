"""What a recipe is, and where recipes come from.

A third party adds one through the entry point group `studio.recipes`: an entry that loads to a `Recipe`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.names import check_variant_name

GROUP = "studio.recipes"
Report = Callable[[float, str], None]
"""Progress from 0 to 1, and what is being done."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named way to make a variant; `name` is also the variant's.

    `applies(model)` takes an onnx.ModelProto and answers '' or the reason why not, as the end of '… does not apply: '.
    `apply(src, out, report)` reads the reference graph and writes a self-contained ONNX file; it returns the parameters
    it used, for the manifest. It raises Refused where the result would not load or nothing would change.
    """

    name: str
    title: str
    applies: Callable[[Any], str]
    apply: Callable[[Path, Path, Report], dict[str, str]]


def recipes() -> dict[str, Recipe]:
    """All recipes by name: the built-in ones, then those of installed packages, which can not replace them.

    A package whose entry does not load, or is no recipe, is left out with a warning in the log.
    """
    import studio.optimize as package

    found: dict[str, Recipe] = {}
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        recipe = getattr(importlib.import_module(info.name), "RECIPE", None)
        if isinstance(recipe, Recipe):
            found[recipe.name] = recipe
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            recipe = entry.load()
            if not isinstance(recipe, Recipe):
                raise TypeError(f"it is a {type(recipe).__name__}, not a studio.optimize.base.Recipe")
            check_variant_name(recipe.name)
            if recipe.name in found:
                raise ValueError(f"there is a recipe '{recipe.name}' already")
        except Exception as error:  # code of others must not take the built-in recipes with it
            _log.warning("The recipe '%s' of %s was left out: %s", entry.name, entry.value, error)
            continue
        found[recipe.name] = recipe
    return found

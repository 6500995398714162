"""What a recipe is, and where recipes come from.

A third party adds one through the entry point group `studio.recipes`: an entry that loads to a `Recipe`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from studio.core.manifest import InputsKind, Verdict
from studio.core.names import check_variant_name
from studio.core.recipe import OptionValue

GROUP = "studio.recipes"
Report = Callable[[float, str], None]
"""Progress from 0 to 1, and what is being done."""
Feed = dict[str, npt.NDArray[Any]]

MORE_SAMPLES = "Put an .npz of inputs beside the model and drop both, or keep what is asked: studio record NAME"
"""How a recipe that wants samples says where they come from."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that the user may set. `low` and `high` bound a number; `choices`, where given, are all there is."""

    name: str
    default: OptionValue
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[OptionValue, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What there is to calibrate and train with: rows set apart, on which no variant is ever judged.

    `inputs` by name, rows first, None where there are no real ones (`kind` is then 'synthetic'); `labels` one a row.
    `runs`: the same rows as feeds that the graph takes, whatever batch it is bound to.
    """

    kind: InputsKind = "synthetic"
    inputs: Feed | None = None
    runs: tuple[Feed, ...] = ()
    labels: npt.NDArray[Any] | None = None

    @property
    def rows(self) -> int:
        """Rows to calibrate with, 0 where there are none."""
        return 0 if self.inputs is None else max((len(rows) for rows in self.inputs.values() if rows.ndim), default=0)


@dataclass(frozen=True, kw_only=True)
class Module:
    """The torch module that a version was exported from, where its source is one.

    `load()` gives a fresh torch.nn.Module in evaluation mode, whose weights can be trained: it takes the graph's inputs
    as tensors and gives a tuple of its outputs, both in the graph's order. `export(module, out)` writes such a module
    as ONNX with the graph's signature. Both raise StudioError.
    """

    load: Callable[[], Any]
    export: Callable[[Any, Path], None]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a recipe may count on, told before it costs anything. `rows` to calibrate with, of that kind; `module`:
    whether the version has a torch module."""

    kind: InputsKind = "synthetic"
    rows: int = 0
    module: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """One application of a recipe.

    Reads the graph `src` (a reference, or what the step before made) and writes a self-contained ONNX file `out`.
    `options` holds all of the recipe's options. `judge(path)` gives the verdict on the fidelity of a graph against the
    reference on the evidence, without speed: what a recipe may steer by. `module` is None where there is none.
    """

    src: Path
    out: Path
    report: Report = lambda share, text: None
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    judge: Callable[[Path], Verdict] | None = None
    module: Module | None = None
    threads: int = 1

    def number(self, name: str) -> float:
        """An option that is a number."""
        value = self.options[name]
        assert isinstance(value, int | float)
        return value

    def text(self, name: str) -> str:
        """An option that is a text."""
        return str(self.options[name])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named way to make a variant; `name` is also the variant's where it is made alone.

    `applies(model, given)` takes an onnx.ModelProto and answers '' or the reason why not, as the end of '… does not
    apply: '. `apply(work)` returns the parameters it used, for the manifest; it raises Refused where the result would
    not load or nothing would change. `tools`: distributions that it uses beside ONNX Runtime, onnx and numpy, whose
    versions belong to a variant's record. `trains`: the weights are new ones, whose layers are not those of the
    reference one by one.
    """

    name: str
    title: str
    applies: Callable[[Any, Given], str]
    apply: Callable[[Work], dict[str, str]]
    options: tuple[Option, ...] = ()
    tools: tuple[str, ...] = ()
    trains: bool = False

    def wants_samples(self, model: Any, given: Given) -> bool:
        """Whether it does not apply, and would with enough real samples."""
        plenty = replace(given, kind="labelled", rows=sys.maxsize)
        return bool(self.applies(model, given)) and not self.applies(model, plenty)

    def settings(self, given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
        """All options: those given, else their defaults."""
        return {option.name: given.get(option.name, option.default) for option in self.options}


BUILT_IN = "built in"


def recipes() -> dict[str, Recipe]:
    """All recipes by name: the built-in ones, then those of installed packages, which can not replace them.

    A package whose entry does not load, or is no recipe, is left out with a warning in the log.
    """
    return {name: recipe for name, (recipe, _) in recipes_with_origin().items()}


def recipes_with_origin() -> dict[str, tuple[Recipe, str]]:
    """As `recipes`, each with 'built in' or the distribution that it comes from."""
    import studio.optimize.recipes as package

    found: dict[str, tuple[Recipe, str]] = {}
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        recipe = getattr(importlib.import_module(info.name), "RECIPE", None)
        if isinstance(recipe, Recipe):
            found[recipe.name] = recipe, BUILT_IN
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
        found[recipe.name] = recipe, entry.dist.name if entry.dist is not None else entry.value
    return found

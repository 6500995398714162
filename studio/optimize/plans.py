"""Recipes of the user's own, in TOML: a name, and steps that are recipes with options.

name = "small"                  # the file's own, where it is left out
title = "Sparse, then 8 bits"

[[steps]]
recipe = "sparse"
amount = 0.2

[[steps]]
recipe = "int8"
"""

from __future__ import annotations

import difflib
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput
from studio.core.names import REFERENCE_VARIANT, check_variant_name
from studio.core.recipe import OptionEntry, OptionValue, Plan, RecipeEntry, Step
from studio.core.toml_lines import Lines, lines_of
from studio.optimize.base import Option, Recipe, recipes, recipes_with_origin

LARGEST_BYTES = 64 * 1024
MOST_STEPS = 8
_TOP = ("name", "title", "steps")
_MOST_TITLE = 200


@dataclass(frozen=True)
class Found:
    """What a folder of plans holds: those by name, their files by name, and what is wrong with the others, by file."""

    plans: dict[str, Plan]
    files: dict[str, str]
    problems: dict[str, InvalidInput]


def parse_plan(text: str, file: str, known: Mapping[str, Recipe] | None = None) -> Plan:
    """The plan in a TOML text; `file` is its name, for messages and where the text names no plan.

    Raises InvalidInput, naming file, line and what is allowed there.
    """
    known = recipes() if known is None else known
    return _Reader(text, file, known).plan()


def read_plan(path: Path, known: Mapping[str, Recipe] | None = None) -> Plan:
    """The plan in a file. Raises InvalidInput."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"The recipe '{path.name}' can not be read.", f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name} is not UTF-8 text.", f"{error.reason}.", "Save the file as UTF-8.") from error
    if len(data) > LARGEST_BYTES:
        raise InvalidInput(
            f"The recipe '{path.name}' is larger than {LARGEST_BYTES // 1024} kB.", "It should be a few lines."
        )
    return parse_plan(text, path.name, known)


def plans_in(folder: Path, known: Mapping[str, Recipe] | None = None) -> Found:
    """All plans of a folder, none where there is no folder. A file that is wrong takes no other with it."""
    known = recipes() if known is None else known
    found = Found({}, {}, {})
    for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
        try:
            plan = read_plan(path, known)
            if plan.name in found.plans:
                raise InvalidInput(
                    f"{path.name}: the name '{plan.name}' is taken.",
                    f"{found.files[plan.name]} has it.",
                    "Give one of them another 'name'.",
                )
        except InvalidInput as error:
            found.problems[path.name] = error
            continue
        found.plans[plan.name] = plan
        found.files[plan.name] = path.name
    return found


def describe(folder: Path | None = None) -> list[RecipeEntry]:
    """All recipes, then the plans of a folder and the files there that are wrong: a list for people."""
    known = recipes_with_origin()
    entries = [
        RecipeEntry(
            name=name,
            title=recipe.title,
            origin=origin,
            options=tuple(
                OptionEntry(name=option.name, default=option.default, help=option.help, allowed=allowed(option))
                for option in recipe.options
            ),
        )
        for name, (recipe, origin) in known.items()
    ]
    if folder is None:
        return entries
    found = plans_in(folder, {name: recipe for name, (recipe, _) in known.items()})
    entries += [
        RecipeEntry(name=name, title=plan.title, origin=found.files[name], steps=plan.text)
        for name, plan in found.plans.items()
    ]
    return entries + [
        RecipeEntry(name=Path(file).stem, title="", origin=file, problem=error.problem.sentence())
        for file, error in found.problems.items()
    ]


def allowed(option: Option) -> str:
    """'0.01 to 0.99', 'layer, model', 'yes or no': what an option takes."""
    if option.choices:
        return ", ".join(map(str, option.choices))
    if isinstance(option.default, bool):
        return "true or false"
    if isinstance(option.default, tuple):
        return "a list of texts"
    if isinstance(option.default, str):
        return "a text"
    word = "a whole number" if isinstance(option.default, int) else "a number"
    if option.low is not None and option.high is not None:
        return f"{word} from {_plain(option.low)} to {_plain(option.high)}"
    if option.low is not None:
        return f"{word}, at least {_plain(option.low)}"
    return f"{word}, at most {_plain(option.high)}" if option.high is not None else word


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


class _Reader:
    """One file: every message begins with its name and the line."""

    def __init__(self, text: str, file: str, known: Mapping[str, Recipe]) -> None:
        self._file, self._taken = file, known
        # The reference is what every plan begins with.
        self._known = {name: recipe for name, recipe in known.items() if name != REFERENCE_VARIANT}
        self._lines: Lines = lines_of(text)
        self._table = self._parsed(text)

    def plan(self) -> Plan:
        for key in self._table:
            if key not in _TOP:
                raise self._wrong((key,), f"there is no key '{key}'", _near(key, _TOP, "The keys are"))
        title = self._table.get("title", "")
        if not isinstance(title, str) or len(title) > _MOST_TITLE:
            raise self._wrong(("title",), "'title' is no text", f"It takes a text of at most {_MOST_TITLE} characters.")
        name = self._name()
        steps = self._table.get("steps")
        if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
            why = 'A plan has at least one [[steps]], each with a line like recipe = "int8".'
            raise self._wrong(("steps",), "it has no steps", why)
        if len(steps) > MOST_STEPS:
            raise self._wrong(("steps", MOST_STEPS), f"it has {len(steps)} steps", f"At most {MOST_STEPS} are taken.")
        return Plan(
            name=name, steps=tuple(self._step(number, step) for number, step in enumerate(steps)), title=title.strip()
        )

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError, OverflowError) as error:
            # A number of thousands of digits and deep nesting are no TOMLDecodeError.
            raise InvalidInput(
                f"{self._file} is not valid TOML.", f"{str(error)[:200]}.", "Correct that line and save it again."
            ) from error

    def _name(self) -> str:
        name = self._table.get("name", Path(self._file).stem)
        if not isinstance(name, str):
            raise self._wrong(("name",), "'name' is no text", 'It takes a text, for example name = "small".')
        try:
            check_variant_name(name)
        except InvalidInput as error:
            given = "" if "name" in self._table else " It comes from the file's name."
            raise self._wrong(("name",), f"{name[:100]!r} is no name for a variant", f"{error.why}{given}") from error
        if name in self._taken or name == REFERENCE_VARIANT:
            raise self._wrong(("name",), f"'{name}' is the name of a recipe already", "A plan needs a name of its own.")
        return name

    def _step(self, number: int, table: dict[str, Any]) -> Step:
        place = ("steps", number)
        name = table.get("recipe")
        if not isinstance(name, str):
            raise self._wrong((*place, "recipe"), "a step names no recipe", f"Recipes: {', '.join(self._known)}.")
        if name not in self._known:
            raise self._wrong(
                (*place, "recipe"), f"there is no recipe '{name[:100]}'", _near(name, list(self._known), "Recipes")
            )
        options = {option.name: option for option in self._known[name].options}
        taken: dict[str, OptionValue] = {}
        for key, value in table.items():
            if key == "recipe":
                continue
            if key not in options:
                why = _near(key, list(options), "Its options") if options else "It has no options."
                raise self._wrong((*place, key), f"the recipe '{name}' has no option '{key[:100]}'", why)
            taken[key] = self._value(options[key], value, (*place, key))
        return Step(recipe=name, options=taken)

    def _value(self, option: Option, value: Any, place: tuple[str | int, ...]) -> OptionValue:
        found = _converted(option, value)
        if found is None:
            shown = repr(value)
            raise self._wrong(
                place,
                f"'{option.name}' can not be {shown[:60]}{'…' if len(shown) > 60 else ''}",
                f"It takes {allowed(option)}: {option.help}.",
            )
        return found

    def _wrong(self, place: tuple[str | int, ...], what: str, why: str) -> InvalidInput:
        line = self._lines.of(*place)
        return InvalidInput(
            f"{self._file}{f', line {line}' if line else ''}: {what}.", why, "Correct it and try again."
        )


def _converted(option: Option, value: Any) -> OptionValue | None:
    """The value as the option takes it, None where it does not."""
    taken: OptionValue
    if isinstance(option.default, bool) or isinstance(value, bool):
        return value if isinstance(option.default, bool) and isinstance(value, bool) else None
    if isinstance(option.default, tuple):
        return tuple(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else None
    if isinstance(option.default, str):
        if not isinstance(value, str):
            return None
        taken = value
    elif isinstance(value, int) or (isinstance(value, float) and isinstance(option.default, float)):
        low = -sys.float_info.max if option.low is None else option.low
        high = sys.float_info.max if option.high is None else option.high
        if not low <= value <= high:  # nor NaN
            return None
        taken = float(value) if isinstance(option.default, float) else int(value)
    else:
        return None
    return taken if not option.choices or taken in option.choices else None


def _near(word: str, known: Sequence[str], told: str) -> str:
    near = difflib.get_close_matches(word.lower()[:100], known, 1)
    return f"Did you mean '{near[0]}'?" if near else f"{told}: {', '.join(known)}."

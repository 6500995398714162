"""`digits.toml` beside `digits.onnx`: what the user says of a model. Its keys are in `settings_schema`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput
from studio.core.preprocessing import Preprocessing
from studio.core.toml_lines import Lines, lines_of
from studio.core.toml_lines import Path as Place
from studio.formats.settings.schema import EVALUATION, GATES, INPUT, KIND, MOST_INPUTS, PREPROCESSING, TOP, Key
from studio.formats.settings.values import Wrong, nearest

LARGEST_BYTES = 1024 * 1024
_TABLES = ("inputs", "preprocessing", "gates", "evaluation")
_MOST_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """One input, as the user describes it. Names in `shape` are free sizes; `range` bounds made-up values."""

    shape: tuple[int | str, ...] | None = None
    datatype: str = ""
    range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Cross-validation of a scikit-learn estimator's kind: `folds` 0 = none, `seconds` it may take."""

    folds: int = 0
    seconds: float = 60.0


@dataclass(frozen=True)
class Origin:
    """Which file settings were read from, and where in it each key stands."""

    name: str = ""
    lines: Lines = field(default_factory=Lines)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """`inputs` by name, in the order of the model's own inputs where the source has no names (`[inputs.x]`).

    `outputs`: names for all outputs, empty = the model's own. `signature`: of a SavedModel, empty = the usual one.
    `recipes`: None = those of the workspace. `gates`: thresholds of studio.core.settings.GateSettings that replace the
    workspace's. `preprocessing` by input name.
    """

    title: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    class_labels: tuple[str, ...] = ()
    signature: str = ""
    recipes: tuple[str, ...] | None = None
    alias: str = ""
    inputs: dict[str, InputSettings] = field(default_factory=dict)
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)

    def place(self, *path: str | int) -> str:
        """Where a key stands, for the beginning of a sentence: 'digits.toml, line 4'."""
        line = self.origin.lines.of(*path)
        name = self.origin.name or "The settings"
        return f"{name}, line {line}" if line else name


def read_settings(path: Path | None, recipes: Sequence[str] | None = None) -> ModelSettings:
    """Parse a settings file; defaults without one. `recipes`: the names that `recipes` may list, None = any.

    Raises InvalidInput naming the file, the line and the key of what is wrong, and what is allowed there.
    """
    return ModelSettings() if path is None else parse_settings(_text(path), path.name, recipes)


def parse_settings(text: str, name: str, recipes: Sequence[str] | None = None) -> ModelSettings:
    """The same of a text that was read already; `name` is the file's, for the words."""
    lines = lines_of(text)
    if lines.too_deep:
        raise InvalidInput(
            f"{name}, line {lines.too_deep}: keys or values are nested too deeply.", "No setting is.", "See the keys."
        )
    table = _parsed(text, name)
    reading = _Reading(recipes)
    settings = reading.settings(table, Origin(name, lines))
    if reading.faults:
        raise _told(reading.faults, settings)
    return settings


@dataclass(frozen=True)
class _Fault:
    place: Place
    what: str
    why: str


class _Reading:
    """Reads the tables of one file, and collects everything that is wrong with it."""

    def __init__(self, recipes: Sequence[str] | None) -> None:
        self._recipes = recipes
        self.faults: list[_Fault] = []

    def settings(self, table: dict[str, Any], origin: Origin) -> ModelSettings:
        values = self._keys((), table, TOP, _TABLES)
        self._known_recipes(values.get("recipes", ()))
        return ModelSettings(
            **values,
            inputs={name: InputSettings(**self._keys(at, one, INPUT)) for at, name, one in self._named(table, 0)},
            preprocessing={
                name: facts for at, name, one in self._named(table, 1) if (facts := self._facts(at, one)) is not None
            },
            gates=self._keys(("gates",), self._table(("gates",), table.get("gates", {})), GATES),
            evaluation=EvaluationSettings(
                **self._keys(("evaluation",), self._table(("evaluation",), table.get("evaluation", {})), EVALUATION)
            ),
            origin=origin,
        )

    def _keys(
        self, at: Place, table: dict[str, Any], keys: Sequence[Key], tables: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The values of a table's own keys. Faults are left out."""
        known = {key.name: key for key in keys}
        found: dict[str, Any] = {}
        for name, value in table.items():
            if name in known:
                try:
                    found[name] = known[name].read(value)
                except Wrong as wrong:
                    path = (*at, name)
                    entry = f"entry {wrong.at[0] + 1} of " if wrong.at and isinstance(wrong.at[0], int) else ""
                    self._fault((*path, *wrong.at), f"{entry}'{dotted(path)}' is not right.", wrong.why)
            elif name not in tables:
                self._unknown(at, name, (*known, *tables))
        return found

    def _facts(self, at: Place, table: dict[str, Any]) -> Preprocessing | None:
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in PREPROCESSING:
            if "kind" in table:
                self._keys(at, {"kind": kind}, (KIND,))
            else:
                self._fault(at, f"[{dotted(at)}] says no kind.", f"Add kind = {KIND.example}; it is {KIND.takes}.")
            return None
        return Preprocessing(**self._keys(at, table, (KIND, *PREPROCESSING[kind])))

    def _named(self, table: dict[str, Any], which: int) -> list[tuple[Place, str, dict[str, Any]]]:
        """The tables under `inputs` or `preprocessing`, with their place and name."""
        top = _TABLES[which]
        named = self._table((top,), table.get(top, {}))
        if len(named) > MOST_INPUTS:
            self._fault((top,), f"'{top}' has {len(named):,} tables.", f"At most {MOST_INPUTS:,} are allowed.")
            return []
        return [((top, name), name, self._table((top, name), one)) for name, one in named.items()]

    def _table(self, at: Place, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        hint = f"For the shape write: [{dotted(at)}] and below it shape = …" if isinstance(value, list) else ""
        self._fault(at, f"'{dotted(at)}' must be a table.", hint or f"It begins with a line [{dotted(at)}].")
        return {}

    def _known_recipes(self, wanted: Sequence[str]) -> None:
        for place, name in enumerate(wanted):
            if self._recipes is not None and name not in self._recipes:
                near = nearest(name, self._recipes)
                hint = f"Did you mean {near!r}? " if near else ""
                known = ", ".join(self._recipes)
                self._fault(("recipes", place), f"there is no recipe {_short(name)}.", f"{hint}Known: {known}.")

    def _unknown(self, at: Place, name: str, known: Sequence[str]) -> None:
        near = nearest(name, known)
        home = "" if near else _home(name)
        hint = f"Did you mean '{near}'? " if near else f"It belongs into {home}. " if home else ""
        where = f"[{dotted(at)}]" if at else "the top of the file"
        what = f"there is no key '{dotted((*at, name))}'."
        self._fault((*at, name), what, f"{hint}Keys of {where}: {', '.join(known)}.")

    def _fault(self, place: Place, what: str, why: str) -> None:
        self.faults.append(_Fault(place, what, why))


def dotted(path: Place) -> str:
    """A path as people write it: `inputs.x.shape`."""
    return ".".join(_short(str(part), quote=False) for part in path)


def _home(name: str) -> str:
    """The table that a key stands in, where it is one of another table."""
    if name in {key.name for key in INPUT}:
        return "[inputs.NAME]"
    if name in {key.name for key in GATES}:
        return "[gates]"
    if name in {key.name for key in EVALUATION}:
        return "[evaluation]"
    kinds = [kind for kind, keys in PREPROCESSING.items() if name in {key.name for key in keys}]
    return f'[preprocessing.NAME] with kind = "{kinds[0]}"' if kinds else ""


def _told(faults: list[_Fault], settings: ModelSettings) -> InvalidInput:
    """The first fault in the order of the lines, with the others behind it."""
    ordered = sorted(faults, key=lambda fault: settings.origin.lines.of(*fault.place))
    first = ordered[0]
    others = [f"{settings.place(*fault.place)}: {fault.what}" for fault in ordered[1:_MOST_TOLD]]
    if len(ordered) > _MOST_TOLD:
        others.append(f"and {len(ordered) - _MOST_TOLD} more.")
    more = f" Also: {' '.join(others)}" if others else ""
    return InvalidInput(
        f"{settings.place(*first.place)}: {first.what}",
        first.why + more,
        "Correct it and save it again. Every key is explained in the file that 'studio init FILE' writes.",
    )


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"The settings file '{path.name}' can not be read.", f"{error.strerror}.") from error
    if len(data) > LARGEST_BYTES:
        raise InvalidInput(
            f"The settings file '{path.name}' is larger than {LARGEST_BYTES // 1024**2} MB.",
            "It should be a few lines.",
        )
    try:
        return data.decode("utf-8-sig")  # editors on Windows put a mark in front
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidInput(
            f"{path.name}, line {line}: this is not UTF-8 text.", f"{error.reason}.", "Save the file as UTF-8."
        ) from error


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, line = _reason(str(error), text)
        shown = text.split("\n")[line - 1].strip()
        raise InvalidInput(
            f"{name}, line {line}: this is not valid TOML.",
            f"{reason}{f': {_short(shown)}' if shown else ''}.",
            "Texts stand in quotes, lists in [ ], and every key in a line of its own. Correct it and save it again.",
        ) from error
    except (RecursionError, ValueError, OverflowError) as error:
        # A number of thousands of digits, a date that does not exist: tomllib lets them through as they come.
        raise InvalidInput(
            f"{name} is not valid TOML.", f"{_short(str(error), quote=False)}.", "Correct it and save it again."
        ) from error


def _reason(said: str, text: str) -> tuple[str, int]:
    """tomllib's message without its place, and the line that it names."""
    reason, _, place = said.rpartition(" (at ")
    digits = "".join(letter if letter.isdigit() else " " for letter in place).split()
    if digits and "line" in place:
        return reason, min(int(digits[0]), text.count("\n") + 1)
    return reason or said, text.rstrip().count("\n") + 1


def _short(text: str, quote: bool = True) -> str:
    """A piece of the user's text for a message: on one line, not too long."""
    cut = "".join(letter if letter.isprintable() else "�" for letter in text[:80])
    cut += "…" if len(text) > 80 else ""
    return f"'{cut}'" if quote else cut

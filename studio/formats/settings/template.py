"""Writing a settings file for a model: what is known as values, what is not as lines to fill in, all of it explained.

The keys, their meaning and their examples come from `settings_schema`, so that this file and the reader never differ.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.core.errors import Problem
from studio.core.preprocessing import Preprocessing
from studio.core.settings import GateSettings
from studio.core.tensors import TensorSpec
from studio.formats.settings.file import ModelSettings
from studio.formats.settings.schema import EVALUATION, GATES, INPUT, KIND, PREPROCESSING, TOP, Key
from studio.formats.settings.values import LARGEST_SIDE, Wrong

_WIDTH = 100
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MOST_GUESSES = 3


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a model. `detail`: its format in a few words. `settings`: what a settings file says already.

    `ranges`: between what made-up values of an input lay. `question`: what has to be answered before more is known, and
    `missing`: inputs whose shapes it asks for; `hints`: what is known of those.
    """

    stem: str
    detail: str
    settings: ModelSettings = field(default_factory=ModelSettings)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    class_labels: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    recipes: tuple[str, ...] = ()
    gates: GateSettings = field(default_factory=GateSettings)
    question: Problem | None = None
    missing: tuple[str, ...] = ()
    hints: tuple[TensorSpec, ...] = ()


def template(known: Known) -> str:
    """The text of a settings file. The reader accepts it as it is, and with any `#key = …` line switched on."""
    lines = [
        *_comment(f"Settings of {known.stem}: {known.detail}. They lie beside the model, under the same stem."),
        *_comment("A line '#key = value' says nothing until its # is taken away. Every key may be left out."),
    ]
    if known.question is not None:
        lines += ["", *_comment(f"QUESTION: {known.question.sentence()}")]
    lines += _top(known)
    for place, spec in enumerate(known.inputs):
        lines += _input(known, spec, explained=place == 0)
    lines += _missing(known)
    lines += _preprocessing(known)
    lines += _gates(known)
    lines += _evaluation(known)
    return "\n".join(lines) + "\n"


def title_of(stem: str) -> str:
    """A title for people from a file's stem: 'mobilenet_v2-quick' gives 'Mobilenet v2 quick'."""
    words = re.sub(r"[\s_.-]+", " ", stem).strip()
    return words[:1].upper() + words[1:]


def _top(known: Known) -> Iterator[str]:
    said = known.settings
    values: dict[str, Any] = {
        "title": said.title or title_of(known.stem),
        "description": said.description,
        "tags": said.tags,
        "outputs": known.outputs or said.outputs,
        "class_labels": known.class_labels or said.class_labels,
        "signature": said.signature,
        "recipes": said.recipes,
        "alias": said.alias,
    }
    for key in TOP:
        yield ""
        yield from _about(key)
        if key.name == "recipes":
            yield from _comment(f"Recipes: {', '.join(known.recipes)}.")
        value = values[key.name]
        wanted = value is not None if key.name == "recipes" else bool(value)
        example = quoted_list(known.recipes) if key.name == "recipes" else key.example
        yield from _line(key, value if wanted else None, example)


def _input(known: Known, spec: TensorSpec, explained: bool) -> Iterator[str]:
    said = known.settings.inputs.get(spec.name)
    values = {
        "shape": list(said.shape if said and said.shape is not None else spec.shape),
        "datatype": spec.datatype,
        "range": list(known.ranges[spec.name]) if spec.name in known.ranges else None,
    }
    yield ""
    yield f"[inputs.{key_of(spec.name)}]"
    for key in INPUT:
        if key.name == "range" and spec.datatype in ("BOOL", "BYTES"):
            continue
        yield from _about(key) if explained else ()
        yield from _line(key, values[key.name])


def _missing(known: Known) -> Iterator[str]:
    """Tables to fill in, for inputs that nothing is known of yet."""
    names = known.missing if known.missing else () if known.inputs else ("NAME",)
    for name in names:
        yield ""
        if known.missing:
            yield from _comment(f"QUESTION: what does the input '{name}' take? Take the # away, and correct the lines.")
        else:
            yield from _comment("What the inputs are is known once the question is answered.")
        yield f"#[inputs.{key_of(name)}]"
        hint = next((spec for spec in known.hints if spec.name == name), None)
        # What is not known is a free size, never a number that somebody could take for true.
        shape = toml(list(hint.shape)) if hint else '["batch", "features"]'
        examples = {"shape": shape, "datatype": quoted(hint.datatype) if hint else ""}
        for key in INPUT:
            yield from _about(key)
            yield from _line(key, None, examples.get(key.name, ""))


def _preprocessing(known: Known) -> Iterator[str]:
    said = known.settings.preprocessing
    for name, facts in said.items():
        keys = (KIND, *PREPROCESSING[facts.kind])
        yield from ("", f"[preprocessing.{key_of(name)}]")
        for key in keys:
            value = getattr(facts, key.name)
            yield from _about(key)
            default = getattr(Preprocessing(kind=facts.kind), key.name)
            yield from _line(key, value if key is KIND or value != default else None)
    guesses = [(spec, kind) for spec in known.inputs if spec.name not in said and (kind := kind_of(spec))]
    for spec, kind in guesses[:_MOST_GUESSES]:
        yield ""
        yield from _comment(f"What people send for '{spec.name}', so that the endpoint can make the input of it.")
        yield f"#[preprocessing.{key_of(spec.name)}]"
        yield from _about(KIND)
        yield f'#kind = "{kind}"'
        for key in PREPROCESSING[kind]:
            yield from _about(key)
            yield from _line(key, None, _guess(key, spec))


def kind_of(spec: TensorSpec) -> str:
    """What an input probably stands for: an image, a text, a row of a table; '' where nothing is probable."""
    if len(spec.shape) == 4 and spec.datatype != "BYTES":
        return "image"
    if spec.datatype == "BYTES" or (len(spec.shape) == 2 and spec.name in ("input_ids", "tokens", "ids")):
        return "text"
    return "tabular" if len(spec.shape) == 2 else ""


def _guess(key: Key, spec: TensorSpec) -> str:
    """An example that fits the input better than the general one."""
    last = len(spec.shape) == 4 and spec.shape[3] in (1, 3) and spec.shape[1] not in (1, 3)
    depth = spec.shape[3 if last else 1] if len(spec.shape) == 4 else 3
    sides = spec.shape[1:3] if last else spec.shape[2:4]
    if key.name == "layout" and last:
        return '"NHWC"'
    if key.name == "channels" and depth == 1:
        return '"grey"'
    if key.name in ("mean", "std") and depth == 1:
        return "[0.5]"
    if key.name == "size" and all(isinstance(side, int) and side <= LARGEST_SIDE for side in sides):
        return f"[{', '.join(map(str, sides))}]"
    if key.name == "columns" and len(spec.shape) == 2 and isinstance(spec.shape[1], int) and spec.shape[1] <= 100:
        return quoted_list([f"column {place + 1}" for place in range(spec.shape[1])])
    return key.example


def _gates(known: Known) -> Iterator[str]:
    said = known.settings.gates
    yield ""
    yield from _comment("Thresholds for this model, in place of those of studio.toml.")
    yield "[gates]" if said else "#[gates]"
    for key in GATES:
        yield from _about(key)
        yield from _line(key, said.get(key.name), f"{getattr(known.gates, key.name)}")


def _evaluation(known: Known) -> Iterator[str]:
    said = known.settings.evaluation
    yield ""
    yield from _comment("Cross-validation of scikit-learn models. It judges the kind of model on your samples.")
    yield "[evaluation]" if said.folds else "#[evaluation]"
    for key in EVALUATION:
        yield from _about(key)
        yield from _line(key, getattr(said, key.name) if said.folds else None, key.example)


# -- lines


def _about(key: Key) -> list[str]:
    return _comment(f"{key.meaning[:1].upper()}{key.meaning[1:]} ({key.takes}).")


def _comment(text: str) -> list[str]:
    found: list[str] = []
    for line in text.split("\n"):
        plain = "".join(letter if letter.isprintable() else " " for letter in line)
        found += [f"# {part}" for part in textwrap.wrap(plain, _WIDTH, break_on_hyphens=False)] or ["#"]
    return found


def _line(key: Key, value: Any, example: str = "") -> list[str]:
    """A key with its value; with an example, switched off, where there is none or the reader would not take it."""
    if value is not None:
        try:
            key.read(list(value) if isinstance(value, tuple) else value)
        except Wrong:
            value = None
    if value is None:
        return [f"#{key.name} = {example or key.example}"]
    return f"{key.name} = {toml(value)}".split("\n")


def key_of(name: str) -> str:
    """A name as a key of TOML, in quotes where it needs them."""
    return name if _BARE.fullmatch(name) else quoted(name)


def quoted(text: str) -> str:
    """A text as TOML. JSON's way to write one is TOML's too, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def quoted_list(texts: Sequence[str]) -> str:
    return f"[{', '.join(quoted(text) for text in texts)}]"


def toml(value: Any) -> str:
    """A value as TOML: texts, numbers, true and false, and lists of them, long ones over several lines."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | tuple):
        items = [toml(item) for item in value]
        one = f"[{', '.join(items)}]"
        if len(one) <= _WIDTH:
            return one
        lines, line = [], "   "
        for item in items:
            if len(line) + len(item) > _WIDTH and line.strip():
                lines.append(line)
                line = "   "
            line += f" {item},"
        return "\n".join(["[", *lines, line, "]"])
    return repr(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else repr(value)

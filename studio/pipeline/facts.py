"""What a settings file says, held against the model: names, classes, preprocessing. Errors name the file's line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.core.errors import InvalidInput, Refused
from studio.core.preprocessing import Preprocessing
from studio.core.tensors import DATATYPES, Dim, Signature, TensorSpec
from studio.formats.base import Case, Converted, Feed
from studio.formats.onnx.files import parse
from studio.formats.onnx.names import rename_outputs
from studio.formats.settings.file import ModelSettings
from studio.formats.tensorflow.tensorflow import SAVED_MODEL

_LARGEST_TOKENIZER = 128 * 1024**2
_MASKS = ("attention_mask",)
_TYPES = ("token_type_ids",)


# -- inputs


def check_inputs(settings: ModelSettings, signature: Signature) -> None:
    """Raises InvalidInput when the settings describe an input that is not there, or that is otherwise."""
    specs = {spec.name: spec for spec in signature.inputs}
    for name, said in settings.inputs.items():
        spec = specs.get(name)
        if spec is None:
            raise InvalidInput(
                f"{settings.place('inputs', name)}: the model has no input '{name}'.",
                f"Its inputs: {', '.join(specs)}.",
                "Correct the name, or leave that table out.",
            )
        given = said.shape
        if given is not None and not _fits(given, spec.shape):
            raise InvalidInput(
                f"{settings.place('inputs', name, 'shape')}: the shape of '{name}' is not the model's.",
                f"It says {list(given)}; the model takes {spec.describe()}.",
                "Correct it, or leave it out.",
            )
        if said.datatype and said.datatype != spec.datatype:
            raise InvalidInput(
                f"{settings.place('inputs', name, 'datatype')}: the datatype of '{name}' is not the model's.",
                f"It says {said.datatype}; the model takes {spec.describe()}.",
                "Correct it, or leave it out.",
            )


def _fits(given: tuple[Dim, ...], shape: tuple[Dim, ...]) -> bool:
    pairs = zip(given, shape, strict=False)
    return len(given) == len(shape) and all(
        one == other for one, other in pairs if not {str} & {type(one), type(other)}
    )


# -- outputs


def named(converted: Converted, settings: ModelSettings, declared: Callable[[Path], Signature]) -> Converted:
    """The conversion with its outputs named as the settings say. Changes the graph's file.

    `declared` gives what a graph declares. Raises InvalidInput when the names do not fit.
    """
    if not settings.outputs:
        return converted
    signature = declared(converted.graph)
    old = [spec.name for spec in signature.outputs]
    if list(settings.outputs) == old:
        return converted
    place = settings.place("outputs")
    if len(settings.outputs) != len(old):
        raise InvalidInput(
            f"{place}: {_count(settings.outputs, 'output')} named.",
            f"The model gives {len(old)}: {', '.join(old)}.",
            "Name all of them, in this order, or leave outputs out.",
        )
    inputs = [spec.name for spec in signature.inputs]
    for number, (name, before) in enumerate(zip(settings.outputs, old, strict=True)):
        if name in inputs and name != before:
            raise InvalidInput(
                f"{settings.place('outputs', number)}: an output can not be called '{name}'.",
                "An input of the model has that name.",
                "Choose another.",
            )
    if converted.serve_only:
        raise Refused(
            f"{place}: the outputs of this model can not be renamed.", f"{converted.serve_only}", "Leave outputs out."
        )
    names = dict(zip(old, settings.outputs, strict=True))
    model = parse(converted.graph)
    rename_outputs(model, names)
    converted.graph.write_bytes(model.SerializeToString())
    cases = tuple(Case(inputs=case.inputs, outputs=_under(case.outputs, names)) for case in converted.cases)
    tolerances = {names.get(name, name): value for name, value in converted.tolerances.items()}
    return replace(converted, cases=cases, tolerances=tolerances)


def _under(outputs: Feed, names: dict[str, str]) -> Feed:
    return {names.get(name, name): array for name, array in outputs.items()}


def check_signature(settings: ModelSettings, detail: str) -> None:
    """Raise InvalidInput where the settings choose a signature, and the format, as `detail` calls it, has none."""
    if settings.signature and detail != SAVED_MODEL:
        raise InvalidInput(
            f"{settings.place('signature')}: {detail} has no signatures to choose from.",
            "Only a TensorFlow SavedModel has several.",
            "Take the key out.",
        )


# -- classes


def class_labels(
    settings: ModelSettings, others: Sequence[tuple[str, ...]], signature: Signature
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes, and notes: those of the settings, else the first of `others` that fits the scores.

    Raises InvalidInput when the settings' labels can not belong to any output.
    """
    if settings.class_labels:
        widths = _widths(signature)
        if widths and len(settings.class_labels) not in widths:
            raise InvalidInput(
                f"{settings.place('class_labels')}: {_count(settings.class_labels, 'class label')} named.",
                f"The model gives {' or '.join(str(width) for width in widths)} scores.",
                "Give one label for each score, in their order, or leave class_labels out.",
            )
        return settings.class_labels, ()
    widths = _widths(signature)
    for labels in others:
        if labels and (not widths or len(labels) in widths):
            return labels, ()
    if any(others):
        count = len(next(labels for labels in others if labels))
        scores = " or ".join(str(width) for width in widths)
        return (), (f"It carries names for {count} classes, but gives {scores} scores: the names were left out.",)
    return (), ()


def numbered(
    labels: Any, class_labels: Sequence[str], signature: Signature
) -> tuple[npt.NDArray[Any] | None, tuple[str, ...]]:
    """The labels of the samples [rows], words as the numbers of their classes where the model answers with numbers.

    None, and a note on why there will be no accuracy, where the words can not be told apart.
    """
    if labels is None or labels.dtype.kind not in "USO" or any(spec.datatype == "BYTES" for spec in signature.outputs):
        return labels, ()
    place = {name: number for number, name in enumerate(class_labels)}
    words = [str(label) for label in labels]
    unknown = list(dict.fromkeys(word for word in words if word not in place))
    if not unknown:
        return np.asarray([place[word] for word in words], dtype=np.int64), ()
    shown = ", ".join(word[:40] for word in unknown[:5]) + (" …" if len(unknown) > 5 else "")
    lacking = f"its class_labels lack {shown}" if class_labels else f"nothing says which is which ({shown})"
    return None, (
        f"No accuracy is known: the labels of the samples are words, the model answers with numbers, and {lacking}. "
        "Give class_labels in the settings file, one for each score, in their order.",
    )


def _widths(signature: Signature) -> list[int]:
    """Numbers of scores that the outputs give; empty where that can not be told of all of them."""
    scores = [spec for spec in signature.outputs if len(spec.shape) == 2 and isinstance(spec.shape[1], int)]
    widths = [spec.shape[1] for spec in scores if DATATYPES[spec.datatype][0].startswith(("float", "bfloat"))]
    found = [width for width in widths if isinstance(width, int) and width > 1]
    return found if len(found) == len(signature.outputs) else []


# -- preprocessing


def preprocessing(settings: ModelSettings, signature: Signature) -> dict[str, Preprocessing]:
    """The facts of each input, with names that were left out filled in. Raises InvalidInput where they do not fit."""
    return {name: _Facts(settings, signature, name).checked(one) for name, one in settings.preprocessing.items()}


class _Facts:
    """Checks what is said of one input."""

    def __init__(self, settings: ModelSettings, signature: Signature, name: str) -> None:
        self._settings, self._signature, self._name = settings, signature, name

    def checked(self, facts: Preprocessing) -> Preprocessing:
        spec = self._input(self._name)
        if facts.kind == "image":
            return self._image(facts, spec)
        return self._text(facts, spec) if facts.kind == "text" else self._tabular(facts, spec)

    def _image(self, facts: Preprocessing, spec: TensorSpec) -> Preprocessing:
        colours = 1 if facts.channels == "grey" else 3
        if spec.datatype == "BYTES":
            raise self._wrong("kind", f"The input takes texts ({spec.describe()}).", 'Perhaps kind = "text".')
        if len(spec.shape) != len(facts.layout):
            why = f"{facts.layout} has {len(facts.layout)} dimensions; the model takes {spec.describe()}."
            raise self._wrong("layout", why)
        sizes = dict(zip(facts.layout, spec.shape, strict=True))
        depth = sizes.get("C", 1)
        if isinstance(depth, int) and depth != colours:
            key = "layout" if depth > 4 else "channels"
            why = f"'{facts.channels}' with {facts.layout} means {colours} in the place of C; the model takes "
            raise self._wrong(key, f"{why}{spec.describe()}.")
        for place, side in enumerate("HW"):
            if facts.size and isinstance(sizes[side], int) and sizes[side] != facts.size[place]:
                raise self._wrong("size", f"The model takes {spec.describe()}.", "Leave size out, or correct it.")
        if facts.size is None and not (isinstance(sizes["H"], int) and isinstance(sizes["W"], int)):
            why = f"The model takes images of any size ({spec.describe()})."
            raise self._wrong("size", why, "Give the size that it was trained on: size = [224, 224].")
        for key in ("mean", "std"):
            found = getattr(facts, key)
            if found and len(found) not in (1, colours):
                raise self._wrong(key, f"It has {len(found)} entries for {colours} channels.", "Give one for each.")
        return facts

    def _text(self, facts: Preprocessing, spec: TensorSpec) -> Preprocessing:
        whole = DATATYPES[spec.datatype][0].startswith(("int", "uint"))
        if not facts.tokenizer and spec.datatype != "BYTES":
            raise self._wrong(
                "tokenizer",
                f"The input takes numbers ({spec.describe()}), so a text needs a tokenizer.",
                'Drop the tokenizer.json with the model, and write: tokenizer = "tokenizer.json".',
            )
        if facts.tokenizer and not whole:
            raise self._wrong("tokenizer", f"A tokenizer gives whole numbers; the model takes {spec.describe()}.")
        outputs = [one.name for one in self._signature.outputs]
        if facts.output and facts.output not in outputs:
            raise self._wrong("output", f"The model's outputs: {', '.join(outputs)}.")
        found = replace(facts, output=facts.output or outputs[0])
        if not facts.tokenizer:
            return found
        return replace(
            found,
            attention_mask=self._other("attention_mask", facts.attention_mask, _MASKS),
            token_types=self._other("token_types", facts.token_types, _TYPES),
        )

    def _other(self, key: str, said: str, usual: Sequence[str]) -> str:
        """The input that a tokenizer fills besides the tokens: the one that is named, else the usual one."""
        names = [spec.name for spec in self._signature.inputs]
        if said and said not in names:
            raise self._wrong(key, f"The model's inputs: {', '.join(names)}.")
        return said or next((name for name in usual if name in names), "")

    def _tabular(self, facts: Preprocessing, spec: TensorSpec) -> Preprocessing:
        width = spec.shape[1] if len(spec.shape) == 2 else 1 if len(spec.shape) == 1 else None
        if width is None:
            raise self._wrong("kind", f"A row has one dimension; the model takes {spec.describe()}.")
        if facts.columns and isinstance(width, int) and len(facts.columns) != width:
            why = f"{_count(facts.columns, 'column')} named; the model takes {spec.describe()}."
            raise self._wrong("columns", why)
        return facts

    def _input(self, name: str) -> TensorSpec:
        found = next((spec for spec in self._signature.inputs if spec.name == name), None)
        if found is None:
            names = ", ".join(spec.name for spec in self._signature.inputs)
            raise InvalidInput(
                f"{self._settings.place('preprocessing', name)}: the model has no input '{name}'.",
                f"Its inputs: {names}.",
                "Correct the name.",
            )
        return found

    def _wrong(self, key: str, why: str, fix: str = "Correct it, and save the file again.") -> InvalidInput:
        place = self._settings.place("preprocessing", self._name, key)
        return InvalidInput(f"{place}: '{key}' of the input '{self._name}' does not fit the model.", why, fix)


# -- files that serving needs


def assets(settings: ModelSettings, files: Sequence[Path], stem: str, out: Path) -> tuple[Path, ...]:
    """Copies of the tokenizers that the settings name, in `out`, under these names. `files`: all that came.

    Raises InvalidInput when one did not come with the model, or is none.
    """
    found: dict[str, Path] = {}
    for name, facts in settings.preprocessing.items():
        if facts.tokenizer and facts.tokenizer not in found:
            place = settings.place("preprocessing", name, "tokenizer")
            source = _beside(facts.tokenizer, files, stem, place)
            _check_tokenizer(source, place)
            out.mkdir(exist_ok=True)
            found[facts.tokenizer] = Path(shutil.copyfile(source, out / facts.tokenizer))
    return tuple(found.values())


def _beside(name: str, files: Sequence[Path], stem: str, place: str) -> Path:
    same = [file for file in files if file.name in (name, f"{stem}.{name}")]
    if len(same) == 1:
        return same[0]
    if same:
        raise InvalidInput(
            f"{place}: there are {len(same)} files '{name}' with this model.", "It must be clear which.", "Leave one."
        )
    raise InvalidInput(
        f"{place}: there is no file '{name}' with this model.",
        f"What came: {', '.join(file.name for file in files[:6])}.",
        f"Drop it as {stem}.{name} beside the model, or in a folder or archive with it.",
    )


def _check_tokenizer(path: Path, place: str) -> None:
    # Source: the tokenizers library; a tokenizer.json is one object with a "model".
    if path.stat().st_size > _LARGEST_TOKENIZER:
        raise InvalidInput(f"{place}: '{path.name}' is too large for a tokenizer.", "At most 128 MB are allowed.")
    try:
        table = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{place}: '{path.name}' is no JSON.", f"{error}.", "It must be a tokenizer.json of the tokenizers library."
        ) from error
    if not isinstance(table, dict) or not isinstance(table.get("model"), dict):
        raise InvalidInput(
            f"{place}: '{path.name}' is no tokenizer.json.",
            "It has no table 'model'.",
            "Save it with tokenizer.save('tokenizer.json'); a vocab.txt alone is not enough.",
        )


def _count(things: Sequence[str], word: str) -> str:
    return f"1 {word} is" if len(things) == 1 else f"{len(things)} {word}s are"

"""Writing down, in the inbox, what the user says of a model's inputs: as `NAME.toml`, or added to the one there is."""

from __future__ import annotations

import copy
import json
import re
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.core.errors import Conflict, InvalidInput
from studio.core.tensors import DATATYPES, TensorSpec
from studio.formats.settings.file import read_settings
from studio.inbox.groups import SETTINGS_SUFFIX, is_companion, is_ignored, stem_of
from studio.store.files import write_atomic

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def describe(inbox: Path, stem: str, files: Sequence[Path], inputs: Sequence[TensorSpec], scratch: Path) -> Path:
    """Write shapes and datatypes of inputs into the settings file of an arrival; where it lies.

    Every other key stays as it is, comments too. What is to be written is first read in `scratch`, as the worker will
    read it. Raises InvalidInput for what the reader refuses, Conflict where the file says something else already.
    """
    for spec in inputs:
        if spec.datatype not in DATATYPES:
            raise InvalidInput(
                f"{spec.datatype[:40]!r} is no datatype.", f"The input '{spec.name}' has one of {', '.join(DATATYPES)}."
            )
    path = settings_path(inbox, stem, files)
    if path.is_symlink():
        raise InvalidInput(
            f"{path.name} is a link.", "Links in the inbox are not followed.", "Put a file in its place."
        )
    old = _text(path)
    new = with_inputs(old, inputs, path.name)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        draft = Path(folder) / path.name
        draft.write_text(new, encoding="utf-8", newline="")
        read_settings(draft)
    if _text(path) != old:
        raise Conflict(f"{path.name} has just been changed by somebody else.", fix="Look at it, then try again.")
    write_atomic(path, new.encode(), path.stat().st_mode & 0o777 if path.exists() else 0o644)
    return path


def settings_path(inbox: Path, stem: str, files: Sequence[Path]) -> Path:
    """Where the settings of an arrival lie, or belong: beside the model; inside a folder that a loose model shadows."""
    there = next((file for file in files if file.suffix.lower() == SETTINGS_SUFFIX), None)
    if there is not None:
        return there
    name = f"{stem}{SETTINGS_SUFFIX}"
    in_folder = any(file.parent != inbox for file in files)
    loose = (one.name for one in inbox.iterdir() if one.is_file() and not is_ignored(one.name))
    if in_folder and any(stem_of(name) == stem and not is_companion(name) for name in loose):
        return inbox / stem / name
    return inbox / name


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path.name} is not UTF-8 text.", f"{error.reason}.", "Save it as UTF-8, then try again."
        ) from error
    except OSError as error:
        raise InvalidInput(f"{path.name} can not be read.", f"{error.strerror or error}.") from error


def with_inputs(text: str, inputs: Sequence[TensorSpec], name: str = "NAME.toml") -> str:
    """The text of a settings file with shapes and datatypes of inputs added.

    Raises InvalidInput when it is no TOML, or written in a way that nothing can be added to; Conflict when it gives
    one of these keys another value.
    """
    for spec in inputs:
        text = _with_input(text, spec, name)
    return text


def _with_input(text: str, spec: TensorSpec, name: str) -> str:
    before = _parse(text, name)
    said = before.get("inputs", {})
    here = said.get(spec.name, {}) if isinstance(said, dict) else None
    wanted: dict[str, Any] = {"shape": list(spec.shape), "datatype": spec.datatype}
    for key, value in wanted.items():
        if isinstance(here, dict) and here.get(key, value) != value:
            raise Conflict(
                f"{name} already gives the {key} of '{spec.name}'.",
                f"It says {_value(here[key])}, and not {_value(value)}.",
                "Change it there: the arrival is then looked at again.",
            )
    missing = {key: value for key, value in wanted.items() if isinstance(here, dict) and key not in here}
    if isinstance(here, dict) and not missing:
        return text
    after = copy.deepcopy(before)
    lines = "".join(f"{key} = {_value(value)}\n" for key, value in (missing or wanted).items())
    table = f"[inputs.{_key(spec.name)}]\n"
    if isinstance(here, dict):
        after.setdefault("inputs", {}).setdefault(spec.name, {}).update(missing)
        for draft in _drafts(text, spec.name, lines, table):
            if _same(draft, after):
                return draft
    raise InvalidInput(
        f"Nothing could be added to {name}.",
        f"What it says of inputs.{spec.name} is written in a way that can only be changed by hand.",
        f"Let it say: {table}{lines}".replace("\n", "  ").strip(),
    )


def _drafts(text: str, name: str, lines: str, table: str) -> list[str]:
    """Texts that may be right: a table of its own at the end, or the lines right below the table that is there."""
    end = "" if not text or text.endswith("\n") else "\n"
    gap = "\n" if text.strip() else ""
    drafts = [f"{text}{end}{gap}{table}{lines}"]
    keys = {re.escape(form) for form in (_key(name), _quoted(name), f"'{name}'")}
    header = re.compile(
        rf"^[ \t]*\[[ \t]*inputs[ \t]*\.[ \t]*({'|'.join(sorted(keys))})[ \t]*\][^\n]*(\n|\Z)", re.MULTILINE
    )
    for match in header.finditer(text):
        close = "" if match[0].endswith("\n") else "\n"
        drafts.append(f"{text[: match.end()]}{close}{lines}{text[match.end() :]}")
    return drafts


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"{name} is not valid TOML, so nothing was added to it.", f"{error}.", "Correct it, then try again."
        ) from error


def _same(draft: str, wanted: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(draft) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    # A JSON string is a TOML string, but for DEL and for what JSON writes as a pair of surrogates.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return _quoted(value) if isinstance(value, str) else str(value)

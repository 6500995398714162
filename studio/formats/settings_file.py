"""`digits.toml` beside `digits.onnx`: what the user says of a model."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from studio.core import codec
from studio.core.errors import InvalidInput

_LARGEST = 1024 * 1024
_KEYS = ("title", "description", "tags", "class_labels", "inputs")
_FIX = f"Keys of a settings file: {', '.join(_KEYS)}."


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """One input, as the user describes it. Names in `shape` are free sizes; `range` bounds made-up values."""

    shape: tuple[int | str, ...] | None = None
    datatype: str = ""
    range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """`inputs` by name, in the order of the model's own inputs where the source has no names (`[inputs.x]`)."""

    title: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    class_labels: tuple[str, ...] = ()
    inputs: dict[str, InputSettings] = field(default_factory=dict)


def read_settings(path: Path | None) -> ModelSettings:
    """Parse a settings file; defaults without one. Raises InvalidInput naming the file and the line or key."""
    if path is None:
        return ModelSettings()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"The settings file '{path.name}' can not be read.", f"{error.strerror}.") from error
    if len(data) > _LARGEST:
        raise InvalidInput(f"The settings file '{path.name}' is larger than 1 MB.", "It should be a few lines.")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The settings file '{path.name}' is not UTF-8 text.", f"{error.reason}.") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(
            f"The settings file '{path.name}' is not valid TOML.", f"{error}.", "Correct that line and save it again."
        ) from error
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise InvalidInput(f"The settings file '{path.name}' has an unknown key '{unknown[0]}'.", fix=_FIX)
    settings = codec.convert(table, ModelSettings, f"settings file '{path.name}'")
    for name, described in settings.inputs.items():
        sizes = described.shape or ()
        if not all(isinstance(size, str) or 0 < size < 2**31 for size in sizes):
            raise InvalidInput(
                f"The settings file '{path.name}' gives impossible sizes for inputs.{name}: {list(sizes)}.",
                "Sizes are whole numbers from 1, or names for free ones.",
            )
    return settings

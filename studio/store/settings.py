"""Reading `studio.toml` into `studio.core.settings.Settings`, with errors that name the file and the key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from studio.core import codec
from studio.core.errors import InvalidInput
from studio.core.names import check_variant_name
from studio.core.settings import GATE_RANGES, Settings

# Lowest and highest sensible value of a key; None = no bound.
_RANGES: dict[str, tuple[float, float | None]] = {
    "control_port": (0, 65535),
    "serving.port": (0, 65535),
    "serving.workers": (1, 256),
    "serving.run_threads": (0, 1024),
    "serving.threads": (0, 1024),
    "serving.max_body_bytes": (1, None),
    "serving.queue": (1, None),
    "serving.timeout_seconds": (0, None),
    "serving.model_runs": (0, None),
    "serving.cache_bytes": (0, None),
    "serving.artefact_bytes": (0, None),
    "serving.grpc_port": (0, 65535),
    "serving.tfs_port": (0, 65535),
    "serving.tfs_grpc_port": (0, 65535),
    "serving.memory_bytes": (0, None),
    "serving.idle_seconds": (0, None),
    "inbox.settle_seconds": (0, 3600),
    "inbox.patience_seconds": (0, 86400),
    "inbox.rescan_seconds": (1, None),
    "workers.parallel": (1, 256),
    "workers.memory_bytes": (64 * 1024**2, None),
    "workers.file_bytes": (1024**2, None),
    "workers.cpu_seconds": (1, None),
    "workers.wall_seconds": (1, None),
    "workers.intake_seconds": (1, None),
    "workers.first_run_seconds": (0, None),
    "workers.lab_seconds": (0, None),
    "workers.measure_seconds": (0.1, 3600),
    "workers.warm": (0, 16),
    "workers.warm_seconds": (1, 86400),
    **{f"gates.{name}": bounds for name, bounds in GATE_RANGES.items()},
    "history.seconds_hours": (0.05, None),
    "history.minutes_hours": (1, None),
    "history.hours_hours": (1, None),
}


def load_settings(path: Path) -> Settings:
    """The settings in a file; all defaults where there is no file. Raises InvalidInput naming file and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} could not be read.", f"{error}.", "Fix or remove the file.") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not valid TOML.", f"{error}.", "Fix that line, or remove the file.") from error
    for key, known in _unknown(raw, Settings, ""):
        near = difflib.get_close_matches(key.rpartition(".")[2], known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known keys here: {', '.join(known)}."
        raise InvalidInput(f"{path}: there is no setting '{key}'.", hint, "Correct or remove the key.")
    try:
        settings = codec.convert(raw, Settings)
    except InvalidInput as error:
        place = re.search(r"`\$\.([^`]+)`", error.why)
        reason = error.why.split(" - at ")[0].rstrip(".")
        raise InvalidInput(
            f"{path}: the setting '{place[1] if place else '?'}' has the wrong type.",
            f"{reason}.",
            "Correct the value, or remove the key to use the default.",
        ) from error
    _check_values(path, settings)
    return settings


def _unknown(raw: dict[str, Any], kind: type[Any], prefix: str) -> Iterator[tuple[str, list[str]]]:
    hints = get_type_hints(kind)
    for key, value in raw.items():
        if key not in hints:
            yield f"{prefix}{key}", list(hints)
        elif isinstance(value, dict) and dataclasses.is_dataclass(hints[key]):
            yield from _unknown(value, hints[key], f"{prefix}{key}.")


def _check_values(path: Path, settings: Settings) -> None:
    for key, (low, high) in _RANGES.items():
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        if not (low <= value < math.inf and (high is None or value <= high)):
            bound = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise InvalidInput(
                f"{path}: the setting '{key}' is out of range.", f"It is {value:g}; it must be {bound}.", "Correct it."
            )
    if not settings.serving.host.strip():
        raise InvalidInput(
            f"{path}: the setting 'serving.host' is empty.",
            "That would be every address of this machine.",
            "Set 127.0.0.1 for this machine alone, or 0.0.0.0 where everybody who can reach it may ask.",
        )
    for recipe in settings.workers.recipes:
        try:
            check_variant_name(recipe)
        except InvalidInput as error:
            raise InvalidInput(
                f"{path}: 'workers.recipes' names no recipe.", error.what, "Correct the name."
            ) from error

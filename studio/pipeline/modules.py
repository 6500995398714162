"""The network that a version came from, for recipes that train: its source files, opened as intake opened them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from studio.core.errors import InvalidInput
from studio.formats.base import Network, Trainable
from studio.formats.registry import formats
from studio.formats.settings.file import read_settings
from studio.optimize.base import Module
from studio.pipeline.arrival import open_arrival
from studio.pipeline.kit import WorkKit
from studio.pipeline.messages import SourceFiles, VariantTask

_FOLDER = "source"


def module_of(task: VariantTask, report: Callable[[str], None] = lambda _: None) -> Module | None:
    """The torch module of a version; None where its format holds none. Costs nothing until it is loaded.

    Code in the source runs only where its hash is among those that the user said yes to; `load` raises NeedsTrust
    otherwise.
    """
    source = task.source
    if source is None or not isinstance(formats().get(source.format), Trainable):
        return None
    loaded: list[Network] = []

    def load() -> Any:
        loaded.append(_network(task, source, report))
        return loaded[-1].module

    def export(module: Any, out: Path) -> None:
        if not loaded:
            load()
        loaded[-1].export(module, out)

    return Module(load=load, export=export)


def _network(task: VariantTask, source: SourceFiles, report: Callable[[str], None]) -> Network:
    scratch = Path(task.out).parent
    opened = open_arrival(_laid_out(source, scratch / _FOLDER), source.stem, scratch, report)
    if not isinstance(opened.format, Trainable):
        raise InvalidInput(f"The source files are {opened.format.title} now, which hold no network.")
    settings = read_settings(opened.files.settings)
    kit = WorkKit(
        opened.files.samples, settings, lambda _, detail: report(detail), task.threads, trusted=source.trusted
    )
    return opened.format.network(opened.files, opened.recognition, Path(task.reference), kit)


def _laid_out(source: SourceFiles, folder: Path) -> tuple[Path, ...]:
    """Links with the names that the files had, since a store knows them by their hash alone."""
    found = []
    for name, blob in source.files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidInput(f"A file of the source has the odd name {name!r}.")
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
        found.append(link)
    return tuple(found)

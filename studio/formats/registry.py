"""Which formats there are, and which of them an arrival is."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import pkgutil
from collections.abc import Iterator
from functools import cache

from studio.core.errors import Refused
from studio.formats.base import ArrivalFiles, Format, Recognition
from studio.formats.unsupported.known import known_but_unsupported

GROUP = "studio.formats"
_MOST_LOOKED_AT = 100
_VERDICTS = {
    "yet": "is not supported yet",
    "never": "can not be turned into ONNX",
    "no model": "is no model",
}

_log = logging.getLogger(__name__)


@cache
def formats() -> dict[str, Format]:
    """All formats by name: the built-in ones, then those of installed packages, which can not replace them.

    A package whose entry does not load, or is no format, is left out with a warning in the log.
    """
    import studio.formats as package

    found: dict[str, Format] = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if info.name.rpartition(".")[2].startswith("_"):  # imports a framework
            continue
        built_in = getattr(importlib.import_module(info.name), "FORMAT", None)
        if isinstance(built_in, Format):
            found[built_in.name] = built_in
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            loaded = entry.load()
            if not isinstance(loaded, Format):
                raise TypeError("it is no studio.formats.base.Format")
            if loaded.name in found:
                raise ValueError(f"there is a format '{loaded.name}' already")
        except Exception as error:  # code of others must not take the built-in formats with it
            _log.warning("The format '%s' of %s was left out: %s", entry.name, entry.value, error)
            continue
        found[loaded.name] = loaded
    return found


def recognise(files: ArrivalFiles) -> tuple[Format, Recognition]:
    """The format of an arrival. Raises Refused naming what is supported, and what this is where that is known."""
    for found in recognised_by(files):
        return found
    raise unknown(files)


def recognised_by(files: ArrivalFiles) -> Iterator[tuple[Format, Recognition]]:
    """Every format that recognises the files. One with a true `container`, which stands for a layout of folders around
    the files of others, is asked first, and stands alone.
    """
    for candidate in sorted(formats().values(), key=lambda one: not getattr(one, "container", False)):
        seen = candidate.recognise(files)
        if seen is not None:
            yield candidate, seen
            if getattr(candidate, "container", False):
                return


def unknown(files: ArrivalFiles) -> Refused:
    """What to say of files that no format recognises: what is supported, and what these are where that is known."""
    supported = "; ".join(one.title for one in formats().values())
    names = ", ".join(file.name for file in files.content[:3])
    seen = [(file, known) for file in files.content[:_MOST_LOOKED_AT] if (known := known_but_unsupported(file))]
    # A folder may hold a model beside notes on it.
    for file, known in sorted(seen, key=lambda pair: pair[1].verdict == "no model")[:1]:
        return Refused(
            f"'{file.name}' is {known.title}, which {_VERDICTS[known.verdict]}.", f"Supported: {supported}.", known.fix
        )
    return Refused(
        f"'{names}' is not a model format that Studio knows.",
        f"Supported: {supported}.",
        "Export the model to ONNX, or save it with torch.export.save, and drop that file.",
    )

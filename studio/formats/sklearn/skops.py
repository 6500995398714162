"""skops files: a zip of `schema.json`, which names the class of every object, and arrays as `.npy`.

Source: skops/io/_persist.py, _protocol.py.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

from studio.core.errors import InvalidInput
from studio.formats.pickles.compressed import MOST_BYTES, MOST_RATIO
from studio.formats.sniff import zip_names

SCHEMA = "schema.json"
_START = re.compile(rb'\s*\{\s*"__class__"\s*:\s*"([^"\\]{1,200})"\s*,\s*"__module__"\s*:\s*"([^"\\]{1,300})"')
_ALWAYS = 256 << 20


def skops_kind(path: Path) -> tuple[str, str] | None:
    """The class of the outermost object, and 'skops'. None when it is no skops file."""
    names = zip_names(path)
    if names is None or SCHEMA not in names:
        return None
    try:
        with zipfile.ZipFile(path) as archive, archive.open(SCHEMA) as file:
            found = _START.match(file.read(4096))
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        return None
    if found is None:
        return None
    kind, module = found[1].decode("utf-8", "replace"), found[2].decode("utf-8", "replace")
    return f"{module}.{kind}", "skops"


def check_size(path: Path) -> None:
    """Raises InvalidInput for an archive that unpacks to more than a model of its size could be."""
    packed = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MOST_BYTES or (size > _ALWAYS and size > packed * MOST_RATIO):
        raise InvalidInput(
            f"'{path.name}' is much larger than it seems.",
            f"{packed} bytes that say they unpack to {size}.",
            "Save it again with skops.io.dump.",
        )

"""What a pickle would import, found without running any of it.

A pickle is a program whose only way out is to name a function or a class and call it. The names are found by walking
the whole stream with Python's own unpickler, whose `find_class` gives inert stand-ins: memo and stack are then exact,
and nothing that the file names is ever imported. Source: PEP 307, pickletools, Lib/pickle.py.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO

from studio.core.errors import CodeFile, InvalidInput

_CHUNK = 8 * 1024 * 1024


def code_file(path: Path, imports: tuple[str, ...], name: str = "") -> CodeFile:
    """What to ask about a file: its name, the SHA-256 of its content, and what it would import or call."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return CodeFile(name=name or path.name, sha256=digest.hexdigest(), imports=imports)


def pickle_imports(file: BinaryIO, name: str) -> tuple[str, ...]:
    """Every global that unpickling would look up, as `module.name`, sorted.

    The file stands behind the pickle afterwards. Raises InvalidInput when the stream is broken; `name` is for the
    words.
    """
    walk = _Walk(file)
    try:
        walk.load()
    except Exception as error:  # a broken stream fails in as many ways as there are opcodes
        raise InvalidInput(
            f"{name} is a damaged pickle.",
            f"{type(error).__name__}: {str(error)[:200]}.",
            "Copy it again, or save it again.",
        ) from error
    return tuple(sorted(walk.names))


class Inert:
    """Stands for anything that a pickle names or makes: takes every call, every state, and does nothing."""

    def __new__(cls, *_args: Any, **_more: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **_more: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _item: Any) -> None:
        pass

    def extend(self, _items: Any) -> None:
        pass

    def add(self, _item: Any) -> None:
        pass


class _Walk(pickle._Unpickler):  # the one in Python: the one in C has no seams
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.names: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.names.add(f"{module}.{name}")
        return type(name.rpartition(".")[2] or "unnamed", (Inert,), {"called": f"{module}.{name}"})

    def persistent_load(self, _pid: Any) -> Any:
        return Inert()

    def get_extension(self, code: int) -> None:
        self.names.add(f"copyreg.extension_{code}")
        self.append(Inert)  # type: ignore[attr-defined]

"""Formats that Studio recognises only to say that it can not convert them yet, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from studio.formats.pickles.words import pickle_words
from studio.formats.sniff import head, zip_names
from studio.formats.unsupported.foreign import ONNX_FIX as _ONNX_FIX
from studio.formats.unsupported.foreign import Known, foreign, foreign_archive
from studio.formats.unsupported.no_models import no_model

_EXPORT_FIX = (
    "In Python: torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2'); then drop model.pt2."
)

_PLAIN = Known(
    "a zip archive without a model that Studio knows", "Unpack it and drop the model file or its folder.", "no model"
)
_LOOK = 4096


def known_but_unsupported(path: Path) -> Known | None:
    """What a file is, from its content, of which little is read. None when it is nothing known."""
    if path.name == "saved_model.pb":
        return Known("a damaged TensorFlow SavedModel", "Copy its whole folder again, with variables/ in it.")
    start = head(path, _LOOK)
    if not start:
        return Known("an empty or unreadable file", "Copy it again, wholly.", "no model")
    names = zip_names(path)
    if names is not None:
        return _archive(names)
    found = foreign(path, start) or pickle_words(path, start)
    if found is not None:
        return found
    for matches, known in _MAGIC:
        if matches(start):
            return known
    return no_model(start)


def _archive(names: list[str]) -> Known:
    found = _whole(names)
    if found is not None:
        return found
    if "serialized_exported_program.json" in names:
        return Known("a .pt2 file of PyTorch before 2.8", f"Save it again with a newer PyTorch. {_EXPORT_FIX}")
    if "schema.json" in names:
        return Known("a skops file", f"{_ONNX_FIX} For example with skl2onnx.")
    return _PLAIN


def _whole(names: list[str]) -> Known | None:
    """What an archive is that is one thing: a document, a program, a foreign model. None for files just packed."""
    tails = {name.partition("/")[2] for name in names}
    if any(tail.startswith("data/aotinductor/") for tail in tails):
        return Known("an AOTInductor package: compiled native code without a graph", _EXPORT_FIX)
    if "[Content_Types].xml" in names or "mimetype" in names[:1]:
        return Known("an Office document or a book", "Drop a model file.", "no model")
    if "META-INF/MANIFEST.MF" in names or "AndroidManifest.xml" in names:
        return Known("a program (a Java or Android archive)", "Drop a model file.", "no model")
    return foreign_archive(set(names)) or foreign_archive(tails)


def is_plain_archive(path: Path) -> bool:
    """Whether an archive that no format recognises is just a way to pack files: no document, program or known model."""
    names = zip_names(path)
    return names is None or _whole(names) is None


_MAGIC: tuple[tuple[Callable[[bytes], bool], Known], ...] = (
    (lambda b: b[:8] == b"\x89HDF\r\n\x1a\n", Known("an HDF5 file without a Keras model", "Drop a model file.")),
    (
        lambda b: b[:6] in (b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c") or b[:4] == b"\x28\xb5\x2f\xfd",
        Known("packed in a way that is not unpacked here (RAR, 7z or Zstandard)", "Pack it as .zip or .tar.gz."),
    ),
)

"""Files that are no models, and often lie where a model should be: data, documents, failed downloads, source code."""

from __future__ import annotations

import re
from collections.abc import Callable

from studio.formats.unsupported.foreign import Known

_DROP = "Drop a model file."
_SAMPLES = "Sample inputs come with a model of the same stem, as an .npz with one array per input."


def _no(title: str, fix: str = _DROP) -> Known:
    return Known(title, fix, "no model")


def no_model(start: bytes) -> Known | None:
    """What a file is, from its first 4096 bytes; None for bytes that mean nothing here."""
    for magic, known in _MAGIC:
        if start.startswith(magic):
            return known
    for matches, known in _MATCHES:
        if matches(start):
            return known
    return _text(start)


_PICTURE, _SOUND, _FILM = _no("a picture"), _no("a sound recording"), _no("a film")
_PROGRAM = _no("a program")
_MAGIC: tuple[tuple[bytes | tuple[bytes, ...], Known], ...] = (
    (
        b"version https://git-lfs",
        _no("a Git LFS pointer, not the file it stands for", "Run: git lfs pull; drop it again."),
    ),
    (b"\x93NUMPY", _no("a NumPy array", _SAMPLES)),
    ((b"PAR1", b"ARROW1", b"FEA1", b"ORC"), _no("a table of data (Parquet, Arrow or ORC)", _SAMPLES)),
    (b"SQLite format 3\0", _no("an SQLite database")),
    (b"%PDF-", _no("a PDF document")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _no("an Office document")),
    (b"{\\rtf", _no("a text document (RTF)")),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"8BPS"), _PICTURE),
    ((b"ID3", b"OggS", b"fLaC", b"\xff\xfb"), _SOUND),
    (b"\x1aE\xdf\xa3", _FILM),
    ((b"\x7fELF", b"\xfe\xed\xfa", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"), _PROGRAM),
    (b"\xac\xed\0\x05", _no("a serialized Java object")),
    (b"\0asm", _PROGRAM),
    (b"#!", _no("a script")),
)


def _riff(kind: bytes) -> Callable[[bytes], bool]:
    return lambda start: start[:4] == b"RIFF" and start[8:12] == kind


_MATCHES: tuple[tuple[Callable[[bytes], bool], Known], ...] = (
    (_riff(b"WEBP"), _PICTURE),
    (_riff(b"WAVE"), _SOUND),
    (_riff(b"AVI "), _FILM),
    (lambda start: start[4:8] == b"ftyp", _FILM),
    (lambda start: start[:2] == b"BM" and start[6:10] == b"\0\0\0\0", _PICTURE),
    (lambda start: start[:2] == b"MZ" and len(start) > 63, _PROGRAM),
)

_PYTHON = re.compile(r"^(import \w+|from [\w.]+ import |def \w+\(|class \w+[:(]|@\w+)", re.MULTILINE)
_NUMBERS = re.compile(r"^-?\d+(\.\d+)?([,;\t ]-?\d+(\.\d+)?)*$")


def _text(start: bytes) -> Known | None:
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # it may be cut in the middle of a letter
            return None
        text = start[: error.start].decode("utf-8-sig")
    if not text.strip() or any(letter < " " and letter not in "\t\n\r\f" for letter in text):
        return None
    low = text.lstrip().lower()
    if low.startswith(("<!doctype html", "<html")):
        return _no("a web page, often what is left of a download that failed", "Download the model itself; drop that.")
    if low.startswith(("<?xml", "<svg")):
        return _no("an XML file")
    if low.startswith("{") and '"cells"' in text and '"cell_type"' in text:
        return _no("a notebook", "Run it, save the model that it trains, and drop that file.")
    if low.startswith(("{", "[")):
        return _no("a JSON file", _DROP)
    if _PYTHON.search(text):
        return _no("Python source code", "Run it, save the model that it makes, and drop that file.")
    if _is_table(text):
        return _no("a table of text (CSV)", _SAMPLES)
    return _no("a text file")


def _is_table(text: str) -> bool:
    """Whether the first lines all have the same number of fields, two at least."""
    lines = [line for line in text.splitlines() if line.strip()]
    lines = lines[:-1][:8] if len(lines) > 2 else lines
    for mark in (",", ";", "\t"):
        counts = {line.count(mark) for line in lines}
        if len(lines) >= 2 and len(counts) == 1 and counts.pop() >= 1:
            return True
    return len(lines) >= 2 and all(_NUMBERS.match(line.strip()) for line in lines)

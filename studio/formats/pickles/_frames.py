"""Reading a pickle's bytes: frames as Lib/pickle.py's _Unframer takes them, and sizes that may lie."""

from __future__ import annotations

import io
from typing import BinaryIO

from studio.formats.pickles._values import LONGEST_TEXT, Broken

PIECE = 1024 * 1024


class Frames:
    """A file, and the frame that is read first while there is one (PEP 3154).

    `cut`: the file is only a beginning, so that a frame may end early.
    """

    def __init__(self, file: BinaryIO, cut: bool = False) -> None:
        self.file, self._cut = file, cut
        self._frame: io.BytesIO | None = None

    def read(self, size: int) -> bytes:
        if self._frame is not None:
            data = self._frame.read(size)
            if data or not size:
                if len(data) < size:
                    raise Broken("an instruction crosses the end of a frame")
                return data
            self._frame = None
        return self.raw(size)

    def raw(self, size: int) -> bytes:
        """From the file itself, a piece at a time: a size may lie."""
        if size <= PIECE:
            data = self.file.read(size)
        else:
            parts, left = [], size
            while left and (part := self.file.read(min(left, PIECE))):
                parts.append(part)
                left -= len(part)
            data = b"".join(parts)
        if len(data) < size:
            raise Broken("it ends in the middle")
        return data

    def skip(self, size: int) -> None:
        while size > PIECE:
            self.read(PIECE)
            size -= PIECE
        self.read(size)

    def line(self) -> bytes | None:
        """A line without its end; None when it is longer than any name."""
        if self._frame is not None:
            data = self._frame.readline()
            if data:
                if data[-1:] != b"\n":
                    raise Broken("an instruction crosses the end of a frame")
                return data[:-1] if len(data) <= LONGEST_TEXT else None
            self._frame = None
        data = piece = self.file.readline(LONGEST_TEXT + 1)
        while piece and piece[-1:] != b"\n":
            piece = self.file.readline(PIECE)
        if not piece:
            raise Broken("it ends in the middle")
        return data[:-1] if data[-1:] == b"\n" else None

    def name(self, what: str) -> str:
        data = self.line()
        if data is None:
            raise Broken(f"{what} is longer than {LONGEST_TEXT} bytes")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Broken(f"{what} is no text") from error

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.read(size), "little", signed=signed)

    def begin(self) -> None:
        """A frame: all of it is read at once."""
        size = self.number(8)
        if self._frame is not None and self._frame.read(1):
            raise Broken("a frame begins inside another")
        self._frame = io.BytesIO(self.file.read(min(size, PIECE)) if self._cut else self.raw(size))

"""`python -m tests.bench_serve.bare_http PORT ANSWER BODY_BYTES`: what HTTP costs in Python before anything is done.

Takes requests off the loop that Studio uses too, looks for their end and sends the file ANSWER. Nothing is parsed, run
or counted: no server in Python on this machine can do with less.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop


class Bare(asyncio.Protocol):
    """Every request has a body of `size` bytes, and gets the same answer."""

    def __init__(self, answer: bytes, size: int) -> None:
        self._answer, self._size = answer, size
        self._kept = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._kept + data if self._kept else data
        while (head := data.find(b"\r\n\r\n")) >= 0 and len(data) >= head + 4 + self._size:
            self._transport.write(self._answer)
            data = data[head + 4 + self._size :]
        self._kept = data


async def main(port: int, answer: bytes, size: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Bare(answer, size), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3])))

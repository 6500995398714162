"""The listener: makes connections of sockets that may be shared with other processes."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from studio.serving.balance import ABSENT, LEAVE_SECONDS, Balance
from studio.serving.connection import ServingProtocol
from studio.serving.direct import Direct

KEEP_ALIVE_SECONDS = 75
REFUSED_SECONDS = 0.1
"""Where the system gives no more connections (too many open files), so long until it is asked again."""


class Listener:
    """Accepts connections from listening sockets that someone else made, and may go on using.

    uvicorn's own `Server` wakes ten times a second to look whether it should stop; this one sleeps. With a `balance`,
    the sockets are shared with other processes.
    """

    def __init__(
        self,
        app: Any,
        listening: Sequence[socket.socket],
        direct: Direct | None = None,
        balance: Balance | None = None,
    ) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._listening = listening
        self._direct = direct
        self._balance = balance
        self._left = False
        self._accepting: set[asyncio.Task[Any]] = set()
        self._state = ServerState()
        self._config = Config(
            app,
            http=ServingProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._servers: list[asyncio.Server] = []
        self._draining = False
        self._empty = asyncio.Event()

    async def start(self) -> None:
        """Start accepting; until now, connections wait in the backlog."""
        self._config.load()
        loop = asyncio.get_running_loop()
        if self._balance is None:
            for sock in self._listening:
                server = await loop.create_server(self._protocol, sock=sock, backlog=self._config.backlog)
                self._servers.append(server)
            return
        self._balance.tell(0)
        for sock in self._listening:
            sock.setblocking(False)
            loop.add_reader(sock, self._accept, loop, sock)

    def _accept(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        """Take one connection, or leave it to a process that has fewer."""
        assert self._balance is not None
        if not self._left and self._balance.fewer_elsewhere(self._count()):
            self._left = True
            loop.remove_reader(sock)
            loop.call_later(LEAVE_SECONDS, self._look_again, loop, sock)
            return
        self._left = False
        try:
            connection, _ = sock.accept()
        except BlockingIOError:  # another process was faster
            return
        except OSError as error:
            logging.getLogger("studio.serving").warning("a connection could not be accepted: %s", error)
            loop.remove_reader(sock)
            loop.call_later(REFUSED_SECONDS, self._look_again, loop, sock)
            return
        connection.setblocking(False)
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._accepting.add(task)
        task.add_done_callback(self._accepted)
        self._balance.tell(self._count())

    def _look_again(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        if not self._draining and sock.fileno() >= 0:
            loop.add_reader(sock, self._accept, loop, sock)

    def _accepted(self, task: asyncio.Task[Any]) -> None:
        self._accepting.discard(task)
        if not task.cancelled():
            task.exception()  # a client that has gone already

    def _count(self) -> int:
        return len(self._state.connections) + len(self._accepting)

    async def drain(self, seconds: float) -> bool:
        """Stop accepting and let requests under way finish. False when some had not after so long."""
        if self._balance is not None:
            self._balance.tell(ABSENT)
            for sock in self._listening:
                asyncio.get_running_loop().remove_reader(sock)
        elif not self._servers:
            return True
        for server in self._servers:
            server.close()
        # What has arrived already is read first, so that it is answered and not cut off.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._draining = True
        for connection in tuple(self._state.connections):
            connection.drain()  # type: ignore[union-attr]
        self._lost()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _protocol(self) -> ServingProtocol:
        protocol = ServingProtocol(
            config=self._config,
            server_state=self._state,
            app_state={"on_connection_lost": self._lost, "direct": self._direct},
        )
        protocol.draining = self._draining
        return protocol

    def _lost(self) -> None:
        if self._balance is not None and not self._draining:
            self._balance.tell(self._count())
        if self._draining and not self._state.connections:
            self._empty.set()

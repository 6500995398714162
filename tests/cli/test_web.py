"""The terminal in a browser, for real: the server, its guard, and the app behind the web socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.cli.conftest import Run
from tests.client.fake_engine import FakeEngine


@dataclass
class Served:
    link: str

    @property
    def authority(self) -> str:
        return urlsplit(self.link).netloc

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.authority, timeout=20)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    def cookie(self) -> str:
        return (self.get("/?" + urlsplit(self.link).query).headers["Set-Cookie"] or "").partition(";")[0]


@pytest.fixture
def served(engine: FakeEngine, tmp_path: Path) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "studio.cli.main", "-w", str(tmp_path), "web", "--port", str(port), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout
        link = json.loads(process.stdout.readline())["url"]
        yield Served(link)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_only_who_has_the_link_gets_in(served: Served) -> None:
    assert served.get("/").status == 403
    assert served.get("/?key=wrong").status == 403
    assert served.get("/static/js/textual.js").status == 403
    opened = served.get("/?" + urlsplit(served.link).query)
    assert opened.status == 303
    assert "HttpOnly" in opened.headers["Set-Cookie"]
    assert "SameSite=Strict" in opened.headers["Set-Cookie"]
    page = served.get("/", Cookie=served.cookie())
    assert page.status == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "https:" not in policy


def test_other_names_and_sites_are_refused(served: Served) -> None:
    cookie = served.cookie()
    assert served.get("/", Cookie=cookie, Host="evil.example").status == 403
    assert served.get("/ws", Cookie=cookie, Origin="http://evil.example").status == 403
    assert served.get("/", Cookie=cookie, Origin=f"http://{served.authority}").status == 200


def test_the_terminal_app_answers_on_the_web_socket(served: Served) -> None:
    async def first_screen() -> bytes:
        name, _, value = served.cookie().partition("=")
        url = f"ws://{served.authority}/ws?width=100&height=30"
        seen = b""
        async with aiohttp.ClientSession(cookies={name: value}) as session, session.ws_connect(url) as terminal:
            while b"Models" not in seen:
                message = await terminal.receive(timeout=60)
                if message.type == aiohttp.WSMsgType.BINARY:
                    seen += message.data
                elif message.type != aiohttp.WSMsgType.TEXT:
                    raise AssertionError(f"the terminal ended: {message}, after {seen[-500:]!r}")
        return seen

    assert b"Models" in asyncio.run(first_screen())


def test_a_taken_port_is_a_conflict(engine: FakeEngine, run: Run) -> None:
    port = urlsplit(engine.url).port
    ran = run("web", "--port", str(port))
    assert ran.code == 4
    assert f"--port {port + 1 if port else 0}" in ran.err

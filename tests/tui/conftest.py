"""An app over a stub client, and waiting for conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from studio.tui.app import StudioApp
from tests.tui.stub import StubClient

Studio = Callable[..., AbstractAsyncContextManager[Pilot[str]]]


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """`async with studio(client, size=(130, 40)) as pilot`: a running app, connected."""

    @asynccontextmanager
    async def start(
        client: StubClient | Exception, size: tuple[int, int] = (130, 40), **options: Any
    ) -> AsyncIterator[Pilot[str]]:
        def connect() -> StubClient:
            if isinstance(client, Exception):
                raise client
            return client

        app = StudioApp(connect, workspace=tmp_path, **options)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.store.state.phase != "starting", "the engine answers")
            yield pilot

    return start


async def until(pilot: Pilot[str], condition: Callable[[], Any], what: str) -> None:
    """Let the app run until the condition holds; fails with `what` after about ten seconds."""
    for _ in range(500):
        if condition():
            await pilot.pause()
            return
        await pilot.pause(0.02)
    raise AssertionError(f"never came true: {what}")


def screen_text(app: StudioApp) -> str:
    """What the terminal shows, line by line, without styles."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).ljust(width) for strip in lines[:height])

"""For the eye: every screen as SVG, from the stub client. `python -m tests.tui.look FOLDER [WIDTH HEIGHT [THEME]]`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from studio.core.comparison import Plan
from studio.tui.app import StudioApp
from studio.tui.dialogs import Dialog
from tests.tui.stub import StubClient, filled
from tests.tui.values import comparison


async def main(folder: Path, width: int, height: int, theme: str) -> None:
    client = filled()
    client.comparison_list.append(comparison(Plan(references=("digits:2-int8", "digits:3-int8"))))
    app = StudioApp(lambda: client, workspace=folder, samples=[folder], theme=theme)
    async with app.run_test(size=(width, height)) as pilot:
        now = time.time()
        for second in range(90):
            client.tick("digits:2-int8", 40 + second % 17, now - 90 + second, 300 + second % 23 * 30)

        async def save(name: str) -> None:
            for _ in range(12):
                await pilot.pause(0.03)
            (folder / f"{name}-{width}.svg").write_text(app.export_screenshot(simplify=True))

        await save("models")
        await pilot.press("down", "space", "enter", "down", "down", "space")
        await save("variants")
        await pilot.press("p")
        await save("promote")
        assert isinstance(app.screen, Dialog)
        await pilot.press("escape", "question_mark")
        await save("help")
        await pilot.press("escape")
        for number, name in ((2, "inbox"), (3, "compare"), (4, "serve"), (5, "log")):
            await pilot.press(str(number))
            if name == "inbox":
                await pilot.pause(0.2)
                await pilot.press("j", "j")
            await save(name)
        await pilot.press("4", "l")
        await pilot.press("apostrophe")
        await save("jump")
    empty = StubClient()
    app = StudioApp(lambda: empty, workspace=folder, samples=[folder], theme=theme)
    async with app.run_test(size=(width, height)) as pilot:
        for _ in range(12):
            await pilot.pause(0.03)
        (folder / f"empty-{width}.svg").write_text(app.export_screenshot(simplify=True))


if __name__ == "__main__":
    size = [int(word) for word in sys.argv[2:4]] or [130, 40]
    asyncio.run(main(Path(sys.argv[1]), size[0], size[1], sys.argv[4] if len(sys.argv) > 4 else "studio-dark"))

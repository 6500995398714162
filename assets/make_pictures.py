"""Make the README's pictures from the running program: `python assets/make_pictures.py`, or `make pictures`.

Starts an engine on a workspace of its own, drops the sample models into the inbox, drives the terminal app by its keys
and photographs it. Nothing is staged but the order of things; the figures are what this machine measured. Takes about
two minutes and needs Chromium. `python assets/make_pictures.py FOLDER` writes elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from palette import shrink
from pictures import browser, convert, size_of
from textual.pilot import Pilot

from studio.client import Client
from studio.client.connect import attach, connect
from studio.core.comparison import Plan
from studio.tui.samples import files_of, sample_folders
from studio.tui.start import build

HERE = Path(__file__).resolve().parent
WIDE = (130, 40)
SMALL = (80, 24)
PIXELS = 1600  # width of a picture of the wide screen
LARGEST = 250_000  # bytes of a picture


async def until(see: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Wait for a condition without holding up the app; the value that it gave."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = await asyncio.to_thread(see)
        if value:
            return value
        await asyncio.sleep(0.1)
    sys.exit(f"Waited {seconds:g} s for {what}, in vain.")


def drop(client: Client, folder: Path) -> None:
    for file in files_of(folder):
        client.add(file)


class Photographer:
    """Drives one app and saves what it shows, as SVG."""

    def __init__(self, pilot: Pilot[Any], folder: Path) -> None:
        self._pilot = pilot
        self._folder = folder

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self._pilot.press(key)
            await self._pilot.pause(0.1)

    async def see(self, text: str, seconds: float = 60.0) -> None:
        """Wait until the screen shows a text."""
        deadline = time.monotonic() + seconds
        while text not in self.words():
            if time.monotonic() > deadline:
                sys.exit(f"Waited {seconds:g} s for {text!r} on the screen:\n{self.words()}")
            await self._pilot.pause(0.1)

    def words(self) -> str:
        """What the screen shows, as plain text."""
        screen = self._pilot.app.screen
        strips = screen._compositor.render_strips(self._pilot.app.size)
        return "\n".join(strip.text for strip in strips)

    async def save(self, name: str) -> None:
        """Save the screen once it has come to rest."""
        await self._pilot.pause(0.6)
        picture = self._pilot.app.export_screenshot(title="Studio", simplify=True)
        (self._folder / f"{name}.svg").write_text(picture, encoding="utf-8")


async def arrivals(camera: Photographer, client: Client, samples: list[Path]) -> None:
    """Drop the samples; photograph the inbox while the second version is being worked on."""
    await camera.press("2")
    await arrive(client, samples[0], "digits:1")
    client.move_alias("digits", "production", "1", "The first one")
    await arrive(client, samples[2], "cancer:1")
    drop(client, samples[1])
    await until(lambda: client.jobs(1)[0].step("optimised").state in ("running", "done"), "digits:2 to be optimised")
    await camera.press("g")
    await camera.save("inbox")
    await until(lambda: not client.status().jobs_active, "the variants of digits:2")


async def arrive(client: Client, sample: Path, becomes: str) -> None:
    """Drop a sample and wait until its job is done."""
    drop(client, sample)
    await until(lambda: any(f"{row.model}:{row.version}" == becomes for row in client.versions().rows), becomes)
    await until(lambda: not client.status().jobs_active, f"the variants of {becomes}")


async def wide(workspace: Path, folder: Path, samples: list[Path]) -> None:
    app = build(workspace)
    async with app.run_test(size=WIDE) as pilot:
        camera = Photographer(pilot, folder)
        client = await until(lambda: attach(workspace, "pictures"), "the engine")
        await until(lambda: client.status().server.state == "ready", "the server")
        await arrivals(camera, client, samples)
        await asyncio.to_thread(call, client, 3)
        await camera.press("5")
        await camera.save("log")

        await camera.press("3")
        comparison = client.compare(Plan(references=("digits:1-fp32", "digits:2-fp32"), seconds=16.0))
        await until(lambda: client.comparison(comparison.id).state != "running", "the comparison")
        await camera.see("95 %")
        await camera.save("compare")

        client.move_alias("digits", "production", "2", "4 points more accurate, and as fast")

        load = client.load("digits:production", 14.0, 4)
        threading.Thread(target=call, args=(client, 60), daemon=True).start()
        await camera.press("4")
        await asyncio.sleep(11)
        await camera.save("serve")
        await until(lambda: client.comparison(load.id).state != "running", "the load test")

        await camera.press("1", "g", "j", "l")
        await camera.see("batch 16")
        await camera.save("models")


def call(client: Client, times: int) -> None:
    """A little traffic: both models asked in turn."""
    bodies = {model: json.loads(client.call(model).body) for model in ("cancer", "digits")}
    for _ in range(times):
        for model, body in bodies.items():
            client.predict(
                model, {one["name"]: np.array(one["data"], "f4").reshape(one["shape"]) for one in body["inputs"]}
            )
        time.sleep(0.15)


async def small(workspace: Path, folder: Path) -> None:
    app = build(workspace)
    async with app.run_test(size=SMALL) as pilot:
        camera = Photographer(pilot, folder)
        await camera.see("Models")
        await camera.press("3", "n")  # the newest one is the load test
        await camera.see("B digits:2")
        await camera.save("compare-80x24")


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    chromium = browser()
    with tempfile.TemporaryDirectory(prefix="studio-") as scratch:
        workspace, shots = Path(scratch, "Studio"), Path(scratch, "shots")
        workspace.mkdir()
        shots.mkdir()
        (workspace / "studio.toml").write_text("[serving]\nport = 0\n")
        client = connect(workspace, start=True, actor="pictures")
        try:
            asyncio.run(wide(workspace, shots, sample_folders()))
            asyncio.run(small(workspace, shots))
        finally:
            client.shutdown()
        for shot in sorted(shots.glob("*.svg")):
            picture = target / f"{shot.stem}.png"
            convert(shot, picture, chromium, scale_of(shot))
            shrink(picture)
            size = picture.stat().st_size
            print(f"{picture}  {size / 1000:.0f} kB")
            if size > LARGEST:
                sys.exit(f"{picture} is larger than {LARGEST / 1000:.0f} kB.")


def scale_of(shot: Path) -> float:
    """Pixels a unit of the drawing, so that text is equally large in all pictures."""
    columns = SMALL[0] if shot.stem.endswith("80x24") else WIDE[0]
    return PIXELS / size_of(shot.read_text(encoding="utf-8"))[0] * columns / WIDE[0]


if __name__ == "__main__":
    main()

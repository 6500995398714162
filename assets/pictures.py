"""Turn SVG screenshots of the terminal app into PNG pictures for the documentation, through headless Chromium.

    python assets/pictures.py SCREENSHOT.svg PICTURE.png
    python assets/pictures.py FOLDER_OF_SVG FOLDER_OF_PNG

Chromium draws the text as a browser does; other converters drift or have no braille.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # A name that resolves nowhere: the screenshots name web fonts, and nothing is to be fetched.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_VIEW_BOX = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')


def browser(given: str = "") -> str:
    """Path of the browser. Raises SystemExit, with what to install, when there is none."""
    for name in (given,) if given else BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    sys.exit(
        f"No Chromium found (looked for {given or ', '.join(BROWSERS)}).\n"
        "It is needed to draw the pictures. Install it, for example: apt-get install chromium\n"
        "or name it: --browser PATH"
    )


def size_of(svg: str) -> tuple[int, int]:
    """Width and height of an SVG in pixels, from its view box. Raises ValueError when it has none."""
    found = _VIEW_BOX.search(svg)
    if not found:
        raise ValueError("no view box")
    return round(float(found[1])), round(float(found[2]))


def convert(source: Path, target: Path, chromium: str, scale: float = 1.0, seconds: float = 60.0) -> None:
    """Draw one SVG as PNG of its own size times `scale`. Raises SystemExit with the reason when that fails."""
    try:
        width, height = size_of(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{source} is not an SVG screenshot: {error}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as scratch:
        # The page has no margin; a bare SVG would be centred with one.
        page = Path(scratch, "page.html")
        body = (
            f'<body style="margin:0"><img src="{source.resolve().as_uri()}" width="{width}" height="{height}"></body>'
        )
        page.write_text(body, encoding="utf-8")
        command = [
            chromium,
            *FLAGS,
            f"--user-data-dir={scratch}/profile",
            f"--window-size={width},{height}",
            f"--force-device-scale-factor={scale:g}",
            f"--screenshot={target.resolve()}",
            page.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            sys.exit(f"{chromium} did not draw {source} within {seconds:g} s.")
    if done.returncode != 0 or not target.is_file():
        sys.exit(f"{chromium} did not draw {source}:\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, help="an SVG screenshot, or a folder of them")
    parser.add_argument("target", type=Path, help="the PNG, or the folder for them")
    parser.add_argument("--browser", default="", help="path of Chromium (default: found on PATH)")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels a CSS pixel (default 1)")
    given = parser.parse_args()
    chromium = browser(given.browser)
    if given.source.is_dir():
        found = sorted(given.source.glob("*.svg"))
        if not found:
            sys.exit(f"{given.source} holds no SVG files.")
        pairs = [(source, given.target / f"{source.stem}.png") for source in found]
    else:
        pairs = [(given.source, given.target)]
    for source, target in pairs:
        convert(source, target, chromium, given.scale)
        print(target)


if __name__ == "__main__":
    main()

"""Narration of what takes a while, on stderr: one line that changes on a terminal, a line a change elsewhere."""

from __future__ import annotations

import shutil
import sys
import time

import click

from studio.cli.output import WARN, is_terminal, paint, say
from studio.client import Client
from studio.core.jobs import Job

WIDTH = 24
LOOK_SECONDS = 1.0
PAUSED = "The lab is paused, and goes on with: studio lab --resume"


def bar(share: float) -> str:
    """`━━━━━━╸      `: a share from 0 to 1."""
    full = round(max(0.0, min(1.0, share)) * WIDTH)
    return "━" * full + "─" * (WIDTH - full)


class Live:
    """A line of progress. Use as a context: what is left of the line is cleared at the end."""

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stderr)
        self._last = ""

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._last:
            click.echo("\r\x1b[K", err=True, nl=False)

    def show(self, text: str, moving: str = "", passing: bool = False) -> None:
        """What is going on. Where a line can not be rewritten, `text` becomes one when it changes, unless `passing`.

        `moving` changes all the time, so it is shown only where a line can be rewritten.
        """
        if self._terminal:
            whole = f"{text}  {moving}" if moving else text
            columns = shutil.get_terminal_size().columns
            click.echo("\r\x1b[K" + whole[: columns - 1], err=True, nl=False)
            sys.stderr.flush()
        elif text != self._last and not passing:
            say(text)
        self._last = text

    def keep(self, text: str) -> None:
        """A line that stays."""
        if self._terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
        say(text)


class LabWatch:
    """Says that the lab is paused, and that it goes on, to one who waits for a job of it."""

    def __init__(self, client: Client, live: Live) -> None:
        self._client, self._live = client, live
        self._looked = 0.0
        self._paused = False

    def over(self, job: Job) -> bool:
        """Whether the waiting has an end; to be asked again and again."""
        if job.in_lab and time.monotonic() - self._looked >= LOOK_SECONDS:
            paused = self._client.status().lab_paused
            self._looked = time.monotonic()
            if paused != self._paused:
                self._live.keep(paint(f"{job.stem} waits. {PAUSED}", WARN) if paused else "The lab goes on.")
            self._paused = paused
        return job.resting

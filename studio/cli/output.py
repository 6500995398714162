"""What is printed: JSON of core values, aligned tables, humane units. `emit` and `write` to stdout, `say` to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import click

from studio.cli.session import Session
from studio.core import codec
from studio.core.jobs import Job

GOOD, BAD, WARN, FAINT, STRONG = "green", "red", "yellow", "faint", "bold"
ASKS = "orange"  # what waits for a word of the user, as in the terminal; of 256 colours, because the eight have none


def emit(session: Session, value: object, text: Callable[[], str]) -> None:
    """The command's data: the value as one JSON document under `--json`, else what `text` makes of it."""
    if session.json:
        click.echo(codec.encode_pretty(value), nl=False)
    else:
        write(text())


def emit_line(session: Session, value: object, text: Callable[[], str]) -> None:
    """One of many, as it happens: a JSON line, or a line of text."""
    if session.json:
        click.echo(codec.encode(value) + b"\n", nl=False)
    else:
        write(text())
    sys.stdout.flush()


def write(text: str) -> None:
    """Data for people, on stdout."""
    if text:
        click.echo(text, color=coloured(sys.stdout))


def say(text: str) -> None:
    """Narration, on stderr."""
    click.echo(text, err=True, color=coloured(sys.stderr))


def coloured(stream: object) -> bool:
    """Whether to colour: a terminal that can, and nobody who said no (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and is_terminal(stream)


def is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty())


def paint(text: str, role: str) -> str:
    """The text in a colour or weight; `write` and `say` take it out again where none is wanted."""
    if role == FAINT:
        return click.style(text, dim=True)
    if role == STRONG:
        return click.style(text, bold=True)
    if role == ASKS:
        return click.style(text, fg=214)
    return click.style(text, fg=role)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns aligned by what they hold; those in `right` to the right. Only the heading for no rows."""
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(click.unstyle(row[i])) for row in cells) for i in range(len(head))]
    lines = []
    for number, row in enumerate(cells):
        parts = []
        for i, cell in enumerate(row):
            gap = " " * (widths[i] - len(click.unstyle(cell)))
            parts.append(gap + cell if i in right else cell + gap)
        line = "  ".join(parts).rstrip()
        lines.append(paint(line, STRONG) if number == 0 else line)
    return "\n".join(lines)


def fields(pairs: Sequence[tuple[str, str]]) -> str:
    """`name  value` lines, aligned; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    lines = []
    for name, value in shown:
        first, *rest = value.splitlines()
        lines.append(f"{name:<{width}}  {first}")
        lines += [" " * (width + 2) + line for line in rest]
    return "\n".join(lines)


def size(count: float | None) -> str:
    """Bytes in units of 1000: `31 kB`, `1.2 MB`."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def milliseconds(value: float | None) -> str:
    """`0.31 ms`, `24 µs`, `1.3 s`: three figures at most."""
    if value is None:
        return "–"
    if value < 0.1:
        return f"{value * 1000:.3g} µs"
    return f"{value:.3g} ms" if value < 999.5 else f"{value / 1000:.3g} s"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"


def plural(count: int, word: str) -> str:
    """`1 version`, `2 versions`."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.6f}"


def duration(seconds: float) -> str:
    """`4.2 s`, `1 min 30 s`, `2 h 5 min`, `3 d`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d"


def ago(at: float) -> str:
    """`5 s ago`, `3 min ago`, `2 d ago`."""
    seconds = max(0.0, time.time() - at)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def since(iso: str) -> str:
    """How long ago an ISO 8601 time was; the text itself if it is none."""
    try:
        return ago(datetime.fromisoformat(iso).timestamp())
    except ValueError:
        return iso


def clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def quantity(value: float | None, unit: str) -> str:
    """A figure with its unit, in humane words for bytes and milliseconds."""
    if value is None:
        return "–"
    if unit in ("bytes", "B"):
        return size(value)
    if unit == "ms":
        return milliseconds(value)
    if unit in ("share", "ratio01", "%"):
        return percent(value if unit != "%" else value / 100)
    figure = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{figure} {unit}".rstrip()


def job_line(job: Job) -> str:
    """One line of a job: where it stands, and why it stopped."""
    if job.state == "waiting":
        return f"{job.standing}: {job.problem.what}" if job.problem else job.standing
    step = job.current
    words = {"queued": "waits", "done": "done", "cancelled": "cancelled", "failed": "failed"}.get(job.state, "")
    where = f"{step.name}" + (f" ({step.detail})" if step.detail else "") if step else ""
    if job.state == "running":
        words = where
    elif job.state == "failed":
        words = f"failed at {step.name}" if step else "failed"
    elif job.state == "done" and job.version is not None:
        words = f"{job.model}:{job.version} is done"
    return words + (f": {job.problem.what}" if job.problem else f" – {job.note}" if job.note else "")

"""Figures as people read them. Every function gives `–` for what is not known."""

from __future__ import annotations

from datetime import UTC, datetime

NONE = "–"


def size(count: int | float | None) -> str:
    """Bytes with a decimal unit: 1 234 567 → `1.2 MB`."""
    if count is None:
        return NONE
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def ms(value: float | None) -> str:
    """Milliseconds with three significant figures, no unit."""
    if value is None:
        return NONE
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 0.1
        else f"{value:.3f}"
    )


def rate(value: float | None) -> str:
    """Something a second, short."""
    if value is None:
        return NONE
    return (
        f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
    )


def cosine(value: float | None) -> str:
    """Fidelity: enough digits to tell 0.9999 from 1, never rounded up to 1."""
    if value is None:
        return NONE
    return "1" if value >= 1 - 1e-9 else f"{min(value, 0.99999):.5f}" if value > 0.999 else f"{value:.4f}"


def share(value: float | None) -> str:
    """A share as per cent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def ago(created: str, now: float) -> str:
    """How long before `now` (Unix seconds) an ISO 8601 time was."""
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return created
    seconds = now - (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def clock(at: float) -> str:
    """Local time of day of Unix seconds."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def bar(fraction: float, width: int) -> str:
    """A progress bar of `width` cells that reads without colour."""
    full = round(max(0.0, min(1.0, fraction)) * width)
    return "━" * full + "╌" * (width - full)


def fit(text: str, width: int) -> str:
    """The text, cut with an ellipsis to at most `width` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def home(path: str, home_folder: str) -> str:
    """A path with the home folder as `~`."""
    return "~" + path[len(home_folder) :] if home_folder and path.startswith(home_folder + "/") else path

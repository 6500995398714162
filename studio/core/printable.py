"""Text of unknown origin, made fit to be shown: names in a file must not steer the terminal that prints them."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything invisible written out, such as `\\x1b` and `\\u202e`, which turns text round."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shortened(text: str, most: int) -> str:
    """At most `most` characters, the cut told with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"

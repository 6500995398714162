"""Text of unknown origin, made fit to be shown: names in a file must not steer the terminal that prints them."""

from __future__ import annotations

from dataclasses import replace

from studio.core.errors import Problem


def printable(text: str) -> str:
    """The text with everything invisible written out, such as `\\x1b` and `\\u202e`, which turns text round."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shortened(text: str, most: int) -> str:
    """At most `most` characters, the cut told with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def printable_problem(problem: Problem) -> Problem:
    """The problem with all its words printable; line ends stay, except in the names of files and imports."""

    def lines(text: str) -> str:
        return "\n".join(map(printable, text.split("\n")))

    files = tuple(
        replace(file, name=printable(file.name), imports=tuple(map(printable, file.imports)))
        for file in problem.code_files
    )
    return replace(problem, what=lines(problem.what), why=lines(problem.why), fix=lines(problem.fix), code_files=files)

"""init: a settings file for a model, from what the model was seen to be."""

from __future__ import annotations

import os
from pathlib import Path

import click

from studio.cli.output import emit, say
from studio.cli.progress import Live
from studio.cli.session import Session, command, pass_session
from studio.core.errors import Conflict, InvalidInput

STDOUT = "-"


@command("init", short_help="Write a settings file for a model, filled in.")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--force", is_flag=True, help="Write the file again where there is one; what it says is kept.")
@click.option("--output", "-o", metavar="PATH", help="Where to write, instead of beside FILE; - is stdout.")
@pass_session
def init(session: Session, file: Path, force: bool, output: str | None) -> None:
    """Write NAME.toml beside a model, with what Studio sees in it; every key is explained there.

    The model is converted and checked as if it were added, but not registered. Where it asks something first, the
    question stands in the file.
    """
    client = session.client()
    with Live() as live:
        live.show(f"Looking at {file.name} …", passing=True)
        to_stdout = output == STDOUT
        made = client.template(file, "" if to_stdout or output is None else output, force or to_stdout)
    if not to_stdout:
        write(Path(made.path), made.text, force)
    say(f"{file.name}: {made.detail}.")
    if made.problem is not None:
        say(f"It asks first: {made.problem.sentence()}")
        say("The questions are marked in the file.")
        if made.problem.code == "needs_trust":
            say(f"Add it and answer its job, then ask again: studio init --force {file.name}")
    emit(session, made, lambda: made.text.rstrip("\n") if to_stdout else made.path)


def write(path: Path, text: str, force: bool) -> None:
    """Write a whole file, and never over another unless `force`. Raises Conflict or InvalidInput."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp") if force else path
    try:
        with draft.open("w" if force else "x", encoding="utf-8", newline="") as file:
            file.write(text)
        if force:
            draft.replace(path)
    except FileExistsError as error:
        raise Conflict(f"There is a file {str(path)!r} already.", fix="Say --force to write over it.") from error
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidInput(f"{str(path)!r} could not be written.", f"{error.strerror}.", "Name another.") from error


COMMANDS = (init,)

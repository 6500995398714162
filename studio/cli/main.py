"""The entry point. This module alone owns the exit code and what is said of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from studio import __version__
from studio.cli.commands import (
    aliases,
    arrivals,
    demo,
    doctor,
    engine,
    environments,
    init,
    lab,
    logs,
    measure,
    models,
    predict,
    record,
    removal,
    routes,
    trust,
    web,
)
from studio.cli.crash import write_crash
from studio.cli.exits import EXITS, INTERRUPTED, PIPE_CLOSED
from studio.cli.output import emit, is_terminal, paint, say
from studio.cli.session import Session, common_options
from studio.core import codec
from studio.core.errors import Problem, StudioError
from studio.core.views import ApiError

COMPLETE = "_STUDIO_COMPLETE"  # set by the shell's completion script, which click wrote
MODULES = (
    *(engine, arrivals, init, trust, models, lab, predict, measure, aliases, routes, record, removal, logs, web),
    *(environments, doctor, demo),
)

EPILOGUE = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {words}" for code, words in EXITS)


@click.group(
    invoke_without_command=True,
    epilog=EPILOGUE,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="studio")
@click.pass_context
def cli(context: click.Context) -> None:
    """Studio: drop a model into a folder, get a checked and measured endpoint on localhost.

    Without a command: the terminal app. REF names a thing: digits (what production answers), digits:3 (a version),
    digits:3-int8 (a variant), digits:production (an alias), digits:latest.
    """
    session = context.ensure_object(Session)
    if context.invoked_subcommand is not None:
        return
    # textual-serve drives the app through pipes and says so in the environment.
    served = "TEXTUAL_DRIVER" in os.environ
    if not session.json and (served or (is_terminal(sys.stdin) and is_terminal(sys.stdout))):
        from studio.tui.start import run

        context.exit(run(session.workspace))
    if not session.json:
        click.echo(context.get_help() + "\n")
    status = session.client().status()
    emit(session, status, lambda: engine.status_text(status))


cli.params.extend(common_options())
for _module in MODULES:
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. Never raises, never shows a traceback."""
    session = Session()
    try:
        code = cli.main(
            args=None if argv is None else list(argv), prog_name="studio", standalone_mode=False, obj=session
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except StudioError as error:
        return _fail(session, error.problem, error.exit_code)
    except click.ClickException as error:
        return _misused(session, error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return _pipe_closed()
    except SystemExit as end:
        if COMPLETE in os.environ:
            return end.code if isinstance(end.code, int) else 0
        return _pipe_closed()  # the one other exit that click makes by itself
    except Exception as error:
        return _crashed(session, error)


def _fail(session: Session, problem: Problem, code: int) -> int:
    try:
        if session.json:
            click.echo(codec.encode(ApiError(error=problem)), err=True)
        else:
            say(f"{paint('error:', 'red')} {problem.what}")
            if problem.why:
                say(problem.why)
            if problem.fix:
                say(f"→ {problem.fix}")
    except BrokenPipeError:
        return _pipe_closed()
    return code


def _misused(session: Session, error: click.ClickException) -> int:
    if session.json:
        return _fail(session, Problem(code="invalid_input", what=error.format_message()), 2)
    error.show()
    return 2


def _pipe_closed() -> int:
    """Nobody reads on: say nothing, not even when Python flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    return PIPE_CLOSED


def _crashed(session: Session, error: Exception) -> int:
    file = write_crash(error, session.workspace)
    where = f"The details are in {file}." if file else "The details could not be written anywhere."
    problem = Problem(
        code="internal",
        what="Studio met an error that it did not foresee.",
        why=f"{type(error).__name__}: {error}",
        fix=f"{where} Please report it.",
    )
    return _fail(session, problem, 1)


if __name__ == "__main__":
    sys.exit(main())

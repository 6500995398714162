"""What every command shares: the workspace, whether JSON is wanted, and how to reach the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from studio.client import Client, connect, default_workspace
from studio.client.connect import absolute, option
from studio.core.errors import StudioError
from studio.core.names import AUTO

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Session:
    """One run of the command line."""

    named: Path | None = None
    json: bool = False

    @property
    def workspace(self) -> Path:
        return self.named or default_workspace()

    @property
    def option(self) -> str:
        """What to add to a command shown to the user, so that it means this workspace."""
        return option(self.workspace)

    def client(self, start: bool = False) -> Client:
        """The workspace's engine. Raises Unavailable when none runs and none is to be started."""
        return connect(self.workspace, start=start, actor="cli")


def complete_reference(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """References that begin like this, for shell completion; none while no engine runs."""
    session = context.find_object(Session) or Session()
    try:
        rows = session.client().versions(filter=incomplete.partition(":")[0], limit=200).rows
    except StudioError:
        return []
    names = {row.model for row in rows}
    for row in rows:
        names |= {f"{row.model}:{alias}" for alias in row.aliases}
        names |= {f"{row.model}:{row.version}", f"{row.model}:{row.version}-{AUTO}"}
        names |= {f"{row.model}:{row.version}-{variant.variant}" for variant in row.variants}
    return [name for name in sorted(names) if name.startswith(incomplete)]


pass_session = click.make_pass_decorator(Session, ensure=True)


def _set_workspace(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Session).named = absolute(value)


def _set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).json = True


def common_options() -> list[click.Option]:
    """`--workspace` and `--json`, which stand before or behind a command's name."""
    return [
        click.Option(
            ["-w", "--workspace"],
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            expose_value=False,
            callback=_set_workspace,
            help="The workspace (default: $STUDIO_WORKSPACE, else ~/Studio).",
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_set_json, help="Print JSON instead of text."
        ),
    ]


class Command(click.Command):
    """A command that takes the common options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command."""
    return click.command(name, cls=Command, **kwargs)

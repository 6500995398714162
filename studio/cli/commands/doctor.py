"""doctor: is everything there that Studio needs?"""

from __future__ import annotations

import os
import textwrap

import click

from studio.cli.doctor import Finding, examine
from studio.cli.output import emit, fields, paint
from studio.cli.session import Session, command, pass_session

WIDTH = 96
COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


@command("doctor", short_help="Check this machine and the workspace.")
@pass_session
@click.pass_context
def doctor(context: click.Context, session: Session) -> None:
    """Check this machine and the workspace. Exit code 1 when there is a problem; changes nothing."""
    found = list(examine(session.workspace, os.environ))
    well = all(one.state != "problem" for one in found)
    emit(session, {"ok": well, "checks": found}, lambda: findings_text(found))
    context.exit(0 if well else 1)


def findings_text(findings: list[Finding]) -> str:
    lines = []
    for one in findings:
        detail = "\n         ".join(textwrap.wrap(one.detail, WIDTH, break_long_words=False, break_on_hyphens=False))
        mark = paint(f"{one.state:<7}", COLOURS[one.state])
        lines.append((one.name, f"{mark}  {detail}" + (f"\n         → {one.fix}" if one.fix else "")))
    return fields(lines)


COMMANDS = (doctor,)

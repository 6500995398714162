"""The reference page of the command line, made from the commands themselves: `python -m studio.cli.reference FILE`.

A test fails when `docs/reference/cli.md` differs from what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from studio.cli.exits import EXITS
from studio.cli.main import MODULES, cli

HEAD = """# The command line

This page is made from the commands: `python -m studio.cli.reference docs/reference/cli.md` writes it again.

- stdout is data, stderr is narration; progress never mixes with what a script reads.
- Every command takes `--json`, before or behind its name, and then prints one JSON document: values of `studio.core`
  as the control API answers them. With `--follow` it is one JSON document a line. Errors are then JSON too, on stderr:
  `{"error": {"code", "what", "why", "fix"}}`.
- Colours and charts appear only on a terminal; `NO_COLOR=1` switches colours off there too.
- Only `studio`, `studio up` and `studio demo` start an engine. All other commands need one that runs.

## Exit codes

| code | meaning |
|---|---|
"""

COMPLETION = """
## Shell completion

Commands, options and, while an engine runs, references complete with the tab key. Put the line of your shell into its
start file:

    bash   eval "$(_STUDIO_COMPLETE=bash_source studio)"     # ~/.bashrc
    zsh    eval "$(_STUDIO_COMPLETE=zsh_source studio)"      # ~/.zshrc
    fish   _STUDIO_COMPLETE=fish_source studio | source      # ~/.config/fish/completions/studio.fish
"""


def page() -> str:
    """The whole page, Markdown."""
    codes = "".join(f"| {code} | {words} |\n" for code, words in EXITS)
    parts = [HEAD + codes + COMPLETION, "\n## studio\n", _help(cli, "studio")]
    for module in MODULES:
        for command in module.COMMANDS:
            parts += [f"\n## studio {command.name}\n", _help(command, f"studio {command.name}")]
    return "".join(parts)


def _help(command: click.Command, name: str) -> str:
    # A width of its own: the page must not depend on the terminal that it is made on.
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    context.help_option_names = ["-h", "--help"]
    lines = command.get_help(context).split("\n  Exit codes:")[0].rstrip().splitlines()
    return "\n```\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")

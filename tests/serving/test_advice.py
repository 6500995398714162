"""What the endpoint advises can be done: the commands it names are there, and so are the settings."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

import studio.serving
from studio.cli.main import cli
from studio.core.preprocessing import Preprocessing
from studio.core.settings import ServingSettings

FOLDER = Path(studio.serving.__file__).parent
_COMMAND = re.compile(r"\bstudio ([a-z]+)((?: [A-Z][A-Z:]*)*)")
_SETTING = re.compile(r"\b(\w+)(?: = [^;.]+)? under \[(serving|preprocessing)\b")


def texts() -> list[str]:
    """All strings of the code that are no docstrings, each as a whole; what a template fills in is INPUT."""
    found: list[str] = []
    for path in sorted(FOLDER.rglob("*.py")):
        tree = ast.parse(path.read_text())
        skipped: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr):
                skipped.add(id(node.value))
            elif isinstance(node, ast.JoinedStr) and id(node) not in skipped:
                skipped |= {id(part) for part in node.values}
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "INPUT" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                found.append(node.value)
    return found + [path.read_text() for path in sorted((FOLDER / "web").iterdir())]


COMMANDS = sorted({found.groups() for text in texts() for found in _COMMAND.finditer(text)})
SETTINGS = sorted({found.groups() for text in texts() for found in _SETTING.finditer(text)})


def test_advice_is_found() -> None:
    assert ("add", " FILE") in COMMANDS
    assert ("max_body_bytes", "serving") in SETTINGS
    assert ("size", "preprocessing") in SETTINGS


@pytest.mark.parametrize(("name", "arguments"), COMMANDS)
def test_commands_that_are_advised_exist_and_take_what_is_shown(
    name: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = cli.commands.get(name)
    assert command is not None, f"studio {name}"
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    parent = click.Context(cli, info_name="studio", **cli.context_settings)
    command.make_context(name, arguments.split(), parent)  # raises UsageError where the words do not fit


@pytest.mark.parametrize(("name", "table"), SETTINGS)
def test_settings_that_are_advised_exist(name: str, table: str) -> None:
    owner = ServingSettings if table == "serving" else Preprocessing
    assert name in {field.name for field in fields(owner)}

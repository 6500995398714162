"""Documentation that fails when it drifts: links and pictures, commands and options, settings, keys, control API."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from studio.cli.main import cli
from studio.core.settings import Settings
from studio.engine.api import actions, lab, queries, recordings
from studio.formats.settings import schema as settings_schema
from studio.formats.settings.file import parse_settings
from tests.docs.pages import KEYS, PAGES, ROOT, keys_page

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| `([^`]+)` \| (.*?) \|", re.MULTILINE)
_INLINE = re.compile(r"`(studio(?: [^`]+)?)`")
_SHOWN = re.compile(r"^ *(?:\$ )?(studio(?: .*)?)$", re.MULTILINE)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def section(page: Path, title: str) -> str:
    """What stands under a heading of the second level."""
    return page.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def anchors(page: Path) -> set[str]:
    """The names that headings of a page get."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_every_link_and_picture_is_there(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_reachable_from_the_readme() -> None:
    seen = {ROOT / "README.md"}
    todo = list(seen)
    while todo:
        page = todo.pop()
        for link in _LINK.findall(prose(page)):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in seen:
                seen.add(target)
                todo.append(target)
    assert set(PAGES) <= seen


def test_every_picture_is_used_and_small() -> None:
    readme = prose(ROOT / "README.md")
    pictures = sorted(ROOT.glob("assets/*.png"))
    assert pictures
    for picture in pictures:
        assert f"assets/{picture.name}" in readme
        assert picture.stat().st_size < 250_000


def shown_commands(page: Path) -> Iterator[str]:
    """Every `studio …` that a page shows, inline or in a line of its own."""
    text = page.read_text(encoding="utf-8")
    yield from _INLINE.findall(prose(page))
    for line in _SHOWN.findall("\n".join(line for line in text.splitlines() if line.startswith("    "))):
        yield re.sub(r"\s{2,}#.*| {4,}.*", "", line)
    for _, block in _FENCE.findall(text):
        yield from (line for line in _SHOWN.findall(block) if not line.startswith(("studio, version",)))


def check_command(line: str) -> None:
    """Fails unless command and options of a line exist, and its values are of the right kind."""
    words = [word for word in shlex.split(line)[1:] if word != "…"]
    common = {name for parameter in cli.params for name in parameter.opts}
    while words and words[0].startswith("-"):
        assert words[0] in common | {"--help", "--version"}, line
        words = words[2:] if words[0] in ("-w", "--workspace") else words[1:]
    if not words:
        return
    command = cli.commands.get(words[0])
    assert command is not None, f"there is no command in: {line}"
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words[1:]:
        if word.startswith("-") and not word.startswith("-1"):
            assert word.partition("=")[0] in options | {"--help", "-h"}, f"there is no {word}: {line}"
    if len(words) > 1 and "…" not in line:
        parse(command, words)


def parse(command: click.Command, words: list[str]) -> None:
    context = click.Context(command, info_name=words[0])
    _, rest, _ = command.make_parser(context).parse_args(list(words[1:]))
    assert not [word for word in rest if word], words


@every_page
def test_every_command_shown_exists(page: Path) -> None:
    for line in shown_commands(page):
        check_command(line)


@pytest.mark.parametrize("line", ["studio fly", "studio ls --colour", "studio --fast ls", "studio undo digits"])
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        check_command(line)


def test_the_tutorial_shows_commands() -> None:
    assert len(list(shown_commands(ROOT / "docs" / "tutorial.md"))) > 10


def test_the_readme_names_every_command() -> None:
    table = section(ROOT / "README.md", "The commands")
    assert set(re.findall(r"`studio (\w+)`", table)) == set(cli.commands)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from flat(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", list(inner) if isinstance(inner, tuple) else inner


def test_settings_are_documented_with_their_defaults() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    documented = {key: tomllib.loads(f"x = {value.strip('`')}")["x"] for key, value in _ROW.findall(page)}
    assert documented == dict(flat(Settings()))


def rows(text: str) -> list[tuple[str, str, str]]:
    """The rows of a table of keys: name, what it takes, what it means."""
    return re.findall(r"^\| `([^`]+)` \| (.*?) \| (.*?) \|$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        ("The top of the file", settings_schema.TOP),
        ("[inputs.NAME]", settings_schema.INPUT),
        ("[evaluation]", settings_schema.EVALUATION),
        ("[gates]", settings_schema.GATES),
        (
            "[preprocessing.NAME]",
            (settings_schema.KIND, *(key for keys in settings_schema.PREPROCESSING.values() for key in keys)),
        ),
    ],
)
def test_keys_of_a_settings_file_are_documented(title: str, keys: tuple[settings_schema.Key, ...]) -> None:
    table = section(ROOT / "docs" / "reference" / "model-settings.md", title)
    assert rows(table) == [(key.name, key.takes, key.meaning) for key in keys]


def test_examples_of_a_settings_file_are_read() -> None:
    page = (ROOT / "docs" / "reference" / "model-settings.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^(?:    .*\n|\n)+", page, re.MULTILINE)
    examples = [block for block in blocks if " = " in block and "error:" not in block]
    assert len(examples) == 7
    for example in examples:
        parse_settings(textwrap.dedent(example), "digits.toml")


def test_the_page_of_keys_is_up_to_date() -> None:
    assert KEYS.read_text(encoding="utf-8") == keys_page(), "run: python -m tests.docs.pages"


def test_every_path_of_the_control_api_is_documented() -> None:
    page = section(ROOT / "docs" / "reference" / "api.md", "The control API")
    documented = set(re.findall(r"(GET|POST) (/api/[^`?]*)", page))
    routes = {
        (method, f"/api{route.path}")  # type: ignore[attr-defined]
        for router in (queries.router, actions.router, recordings.router, lab.router)
        for route in router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert documented == routes


@every_page
def test_code_in_pages_is_well_formed(page: Path) -> None:
    for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse(block)
        elif language == "toml":
            tomllib.loads(block)

"""What holds for every command: exit codes, streams, JSON, no traceback, light imports, documentation that is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from studio.cli import exits, reference
from studio.cli.main import cli, main
from studio.core import codec
from studio.core.errors import Cancelled, NotFound, Refused, StudioError, Unavailable
from tests.cli.conftest import Run
from tests.client import values
from tests.client.fake_engine import FakeEngine

HEAVY = {"textual", "duckdb", "onnxruntime", "onnx", "torch", "numpy", "plotext", "aiohttp", "fastapi"}


def studio(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studio.cli.main", *arguments], capture_output=True, text=True, check=False, **kwargs
    )


def kinds(root: type[StudioError]) -> list[type[StudioError]]:
    return [root, *[kind for child in root.__subclasses__() for kind in kinds(child)]]


def test_every_error_has_a_documented_exit_code() -> None:
    documented = {code for code, _ in exits.EXITS}
    assert {kind.exit_code for kind in kinds(StudioError)} <= documented
    text = studio("--help").stdout
    for code, words in exits.EXITS:
        assert f"{code:>5}  {words}" in text


@pytest.mark.parametrize("kind", [NotFound, Refused, Unavailable, Cancelled])
def test_an_error_is_told_on_stderr_with_its_exit_code(engine: FakeEngine, run: Run, kind: type[StudioError]) -> None:
    engine.on("POST", "/api/undo", kind("It went wrong.", "Because.", "Do this."))
    ran = run("undo")
    assert ran.code == kind.exit_code
    assert ran.out == ""
    assert ran.err == "error: It went wrong.\nBecause.\n→ Do this.\n"
    ran = run("undo", "--json")
    assert ran.code == kind.exit_code
    assert ran.out == ""
    assert json.loads(ran.err) == {
        "error": json.loads(codec.encode(kind("It went wrong.", "Because.", "Do this.").problem))
    }


def test_bad_usage_is_2_and_says_so(run: Run) -> None:
    for arguments in (["nonsense"], ["ls", "--sort", "colour"], ["show"], ["compare"], ["alias", "m", "a"]):
        ran = run(*arguments)
        assert ran.code == 2, arguments
        assert ran.out == ""
        assert "Usage:" in ran.err
    ran = run("--json", "ls", "--sort", "colour")
    assert ran.code == 2
    assert json.loads(ran.err)["error"]["code"] == "invalid_input"


@pytest.mark.parametrize(
    "command",
    [
        "ls", "status", "show digits", "jobs", "logs", "predict digits --sample", "bench digits", "compare a b", "undo",
        "promote digits:1", "rollback digits", "alias digits mine 1", "rm digits:1", "restore digits:1", "",
    ],
)  # fmt: skip
def test_without_an_engine_it_is_6_and_the_way_out(run: Run, tmp_path: Path, command: str) -> None:
    ran = run("-w", str(tmp_path / "none"), *command.split())
    assert ran.code == 6
    assert f"studio --workspace {tmp_path / 'none'} up --detach" in ran.err
    assert not (tmp_path / "none").exists()


def test_json_may_stand_before_or_behind_the_command(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/versions", values.page())
    before, behind = run("--json", "ls"), run("ls", "--json")
    assert before.out == behind.out
    assert codec.decode(before.out, type(values.page())) == values.page()


def test_an_unforeseen_error_is_one_line_and_a_file(
    engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr("studio.client.Client.undo", lambda _: 1 / 0)
    ran = run("undo")
    assert ran.code == 1
    assert "Traceback" not in ran.out + ran.err
    assert "ZeroDivisionError: division by zero" in ran.err
    (file,) = (tmp_path / "logs").glob("crash-*.txt")
    assert str(file) in ran.err
    assert "Traceback" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_is_130(engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studio.client.Client.undo", interrupt)
    assert run("undo").code == exits.INTERRUPTED == 130


def test_a_closed_pipe_is_quiet(engine: FakeEngine, tmp_path: Path) -> None:
    engine.on("GET", "/api/logs", [values.log_line("x" * 1000)] * 5000)
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "studio.cli.main", "-w", str(tmp_path), "logs", "--follow", "-n", "5000"],
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert os.read(read, 10)
    os.close(read)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == exits.PIPE_CLOSED


def test_without_a_terminal_studio_prints_help_and_status(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    ran = run()
    assert ran.code == 0
    assert "Usage: studio" in ran.out
    assert str(tmp_path / "inbox") in ran.out
    assert run("--json").json["workspace"] == str(tmp_path)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ls"], ["ls", "--json"], ["status"], ["jobs"], ["compare", "--help"]]
)
def test_everyday_commands_stay_light(engine: FakeEngine, tmp_path: Path, arguments: list[str]) -> None:
    engine.on("GET", "/api/versions", values.page())
    engine.on("GET", "/api/jobs", [values.job()])
    code = (
        "import sys; from studio.cli.main import main; code = main(sys.argv[1:]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-w", str(tmp_path), *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_no_colour_where_none_is_wanted(engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.cli import output

    engine.on("GET", "/api/versions", values.page())
    assert "\x1b" not in run("ls").out
    monkeypatch.setattr(output, "is_terminal", lambda _: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in run("ls").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("ls").out


def test_every_command_has_help_and_the_common_options() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        assert command.short_help, name
        options = {option for param in command.params for option in param.opts}
        assert {"--json", "--workspace"} <= options, name


def test_the_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
    assert page.read_text() == reference.page(), f"run: python -m studio.cli.reference {page}"


def test_references_complete_while_an_engine_runs(engine: FakeEngine, tmp_path: Path) -> None:
    engine.on("GET", "/api/versions", values.page())
    environment = os.environ | {
        "_STUDIO_COMPLETE": "zsh_complete",
        "COMP_WORDS": f"studio -w {tmp_path} show digits:1",
        "COMP_CWORD": "4",
    }
    lines = studio(env=environment).stdout.splitlines()
    assert "digits:1-int8" in lines
    assert "digits:production" not in lines
    engine.close()
    assert studio(env=environment).stdout.strip() == ""


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("studio, version ")
    assert main(["--help"]) == 0
    assert isinstance(cli, click.Group)

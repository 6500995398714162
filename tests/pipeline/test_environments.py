"""Converter environments: layered over Studio's packages, made once, whole or not at all. From wheels, offline."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import psutil
import pytest
import wcwidth

from studio.core.errors import NotFound, Refused, StepFailed, StudioError, Unavailable
from studio.pipeline import environments
from studio.pipeline.environments import Environment, find, made_environments, place_of, remove
from studio.pipeline.making import make
from tests.pipeline.wheels import wheel

TINY = Environment(
    name="tiny", title="tests", requirements=("tiny_one",), modules=("tiny_one",), download=1, installed=1
)
SLOW = replace(TINY, name="slow", requirements=("tiny_slow",), modules=("tiny_slow",))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments of a test are made; pip knows the wheels of a folder and nothing else."""
    wheels = tmp_path / "wheels"
    wheel(wheels, "tiny_one", requires=("tiny_two", "numpy"))
    wheel(wheels, "tiny_two")
    wheel(wheels, "tiny_slow", source="print('sleeping', flush=True)\nimport time\ntime.sleep(120)\n")
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(tmp_path / "environments"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setitem(environments.ENVIRONMENTS, "tiny", TINY)
    return tmp_path / "environments"


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def told(into: list[str]) -> Callable[[float | None, str], None]:
    return lambda _, words: into.append(words)


def said(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def ask(python: Path, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


async def ask_later(python: Path, code: str) -> str:
    return await asyncio.to_thread(ask, python, code)


async def test_an_environment_has_what_was_missing_and_finds_the_rest_in_studio(folder: Path, tmp_path: Path) -> None:
    words: list[str] = []
    shares: list[float | None] = []
    python = await make(TINY, lambda share, text: (words.append(text), shares.append(share))[0], tmp_path / "log")
    assert await ask_later(python, "import tiny_one, tiny_two; print(tiny_two.__version__)") == "1.0"
    assert await ask_later(python, "import numpy; print(numpy.__file__)") == numpy.__file__
    assert await ask_later(python, "import studio.pipeline.worker as w; print(w.__name__)") == "studio.pipeline.worker"
    assert "tiny_one" not in sys.modules and not find(replace(TINY, requirements=("other",)))
    assert [text for text in words if "tiny" in text] and "installing 2 packages" in words
    known = [share for share in shares if share is not None]
    assert known == sorted(known) and known[0] >= 0 and known[-1] <= 1
    assert "Successfully installed" in said(tmp_path / "log")
    ((place, made),) = made_environments()
    assert place == place_of(TINY) and made.name == "tiny" and made.size > 0
    assert await make(TINY, told(words), tmp_path / "log2") == python
    assert not (tmp_path / "log2").exists()


async def test_another_version_of_a_package_stays_inside(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "wcwidth", "99.0")
    python = await make(replace(TINY, requirements=("wcwidth==99.0",), modules=("wcwidth",)), told([]))
    assert await ask_later(python, "import wcwidth; print(wcwidth.__version__)") == "99.0"
    assert await ask_later(Path(sys.executable), "import wcwidth; print(wcwidth.__version__)") == wcwidth.__version__


async def test_what_studio_needs_itself_is_not_replaced_unless_allowed(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "onnx", "1.0")
    older = replace(TINY, requirements=("onnx==1.0",), modules=("onnx",))
    with pytest.raises(StepFailed, match="onnx") as caught:
        await make(older, told([]))
    assert "pip says" in caught.value.why and not made_environments()
    python = await make(replace(older, replaces=("onnx",)), told([]))
    assert await ask_later(python, "import onnx; print(onnx.__version__)") == "1.0"


MAKE = """
import asyncio, sys
from studio.pipeline.environments import Environment
from studio.pipeline.making import make
from pathlib import Path
asyncio.run(make(Environment(**{fields!r}), lambda *told: print(*told, flush=True), Path({log!r})))
"""


def other_engine(environment: Environment, log: Path) -> subprocess.Popen[bytes]:
    fields = {name: getattr(environment, name) for name in environment.__dataclass_fields__}
    code = MAKE.format(fields=fields, log=str(log))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)


async def test_several_jobs_and_engines_make_it_once(folder: Path, tmp_path: Path) -> None:
    other = other_engine(TINY, tmp_path / "log0")
    found = await asyncio.gather(*(make(TINY, told([]), tmp_path / f"log{number}") for number in (1, 2, 3)))
    assert await asyncio.to_thread(other.wait, 60) == 0
    assert len(set(found)) == 1
    assert sum("Successfully installed" in said(tmp_path / f"log{number}") for number in range(4)) == 1
    assert folders(folder) == [place_of(TINY).name]


def children_named(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(mark in part for part in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it happened; a failed test ends by this."""
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)
    return happened()


def gone(mark: str) -> bool:
    return wait_for(lambda: not children_named(mark))


async def test_an_engine_that_is_killed_leaves_nothing_that_counts(folder: Path, tmp_path: Path) -> None:
    other = other_engine(SLOW, tmp_path / "log")
    await asyncio.to_thread(wait_for, lambda: "sleeping" in said(tmp_path / "log"))
    other.send_signal(signal.SIGKILL)
    await asyncio.to_thread(other.wait)
    assert await asyncio.to_thread(gone, "import tiny_slow")
    assert find(SLOW) is None and not made_environments()
    assert [name.rpartition(".")[2] for name in folders(folder)] == ["part"]
    # The next try begins afresh, and tidies up.
    quick = wheel(tmp_path / "wheels", "tiny_slow")
    assert quick.exists()
    assert await make(SLOW, told([]))
    assert folders(folder) == [place_of(SLOW).name]


async def test_cancelling_stops_it_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    task = asyncio.create_task(make(SLOW, told([]), tmp_path / "log"))
    await asyncio.to_thread(wait_for, lambda: "sleeping" in said(tmp_path / "log"))
    assert children_named("import tiny_slow")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(gone, "import tiny_slow")
    assert not folders(folder)


async def test_without_a_network_it_says_so_and_a_later_try_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as offline:
        offline.delenv("PIP_NO_INDEX")
        offline.delenv("PIP_FIND_LINKS")
        offline.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        offline.setenv("PIP_RETRIES", "1")
        with pytest.raises(Unavailable) as caught:
            await make(TINY, told([]))
    assert "package index could not be reached" in caught.value.why and "retry" in caught.value.fix
    assert not folders(folder)
    assert await make(TINY, told([]))


@pytest.mark.parametrize(
    ("environment", "kind", "words"),
    [
        (replace(TINY, requirements=("no_such_package",)), StepFailed, "Could not find a version"),
        (replace(TINY, modules=("tiny_one", "not_in_it")), StepFailed, "not_in_it"),
        (replace(TINY, installed=10**18), Refused, "takes about"),
    ],
)
async def test_what_can_not_be_made_says_why_and_leaves_nothing(
    folder: Path, environment: Environment, kind: type[StudioError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        await make(environment, told([]))
    assert words in f"{caught.value.why} {caught.value.what}" and caught.value.fix
    assert not folders(folder)


async def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(StudioError, match="can not be made") as caught:
        await make(TINY, told([]))
    assert environments.FOLDER_VARIABLE in caught.value.fix


async def test_one_whose_python_is_gone_is_made_again_and_removal_frees_it(folder: Path) -> None:
    python = await make(TINY, told([]))
    python.unlink()
    assert find(TINY) is None
    assert await make(TINY, told([])) == python
    mark = place_of(TINY) / "studio-environment.json"
    assert json.loads(mark.read_text())["name"] == "tiny"
    assert remove("tiny") > 0 and not made_environments()
    assert not folders(folder)
    with pytest.raises(NotFound, match="no converter environment 'other'"):
        remove("other")

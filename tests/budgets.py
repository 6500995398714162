"""The budgets of the whole product, measured on real processes: `make bench`. Prints figures, asserts nothing.

Wall times on a shared machine swing by a factor of two; CPU seconds are steadier. Each figure is a median of runs.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import psutil

from studio.engine.server_process import STABLE_SECONDS
from studio.registry import changes, versions
from studio.registry.registry import Registry
from studio.store.workspace import Workspace
from tests import manifests as samples
from tests.journeys.engines import SAMPLES, RunningEngine, until

STUDIO = str(Path(sys.executable).with_name("studio"))


def median(measure: Callable[[], float], runs: int = 5) -> float:
    return statistics.median(measure() for _ in range(runs))


def show(what: str, value: str, budget: str) -> None:
    print(f"  {what:<58} {value:>12}   budget {budget}", flush=True)


def fill(root: Path, models: int, per_model: int, graph: Path | None = None) -> None:
    """A workspace with versions and variants; `graph` = a real ONNX file for all of them to serve."""
    workspace = Workspace.open(root)
    with Registry.open(workspace) as registry:
        blobs = registry.store.blobs
        file = blobs.put_file(graph, name="model.onnx") if graph else None
        for number in range(models * per_model):
            model, version = f"model-{number % models:05}", number // models + 1
            manifest = samples.version(blobs, model, version)
            if file:
                manifest = replace(manifest, graph=replace(manifest.graph, file=file))
            # Written as a store that an engine finds, for speed: the registry indexes it when it opens.
            registry.store.manifests.write_version(manifest)
            for name in ("fp32", "fp16", "int8"):
                variant = samples.variant(blobs, model, version, name)
                if file and variant.graph:
                    variant = replace(variant, graph=replace(variant.graph, file=file))
                registry.store.manifests.write_variant(variant)


def cpu_of(command: list[str]) -> float:
    """User and system CPU seconds of a command."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def first_paint(workspace: Path) -> float:
    """Seconds from starting `studio` in a terminal to the first frame that shows a screen tab."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="130", LINES="40")
        os.execv(STUDIO, [STUDIO, "--workspace", str(workspace)])
    seen = b""
    deadline = began + 30
    try:
        while b"Models" not in seen and time.perf_counter() < deadline:
            if select.select([terminal], [], [], 0.5)[0]:
                seen += os.read(terminal, 65536)
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def idle_share(engine: RunningEngine, seconds: float = 20.0) -> tuple[float, float]:
    """CPU share in percent of one core, of the engine alone and with its server."""
    assert engine.process is not None
    processes = [psutil.Process(engine.process.pid), *engine.children()]
    time.sleep(3)

    def used() -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in processes]

    before, began = used(), time.perf_counter()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(used(), before, strict=True)]
    elapsed = time.perf_counter() - began
    return 100 * spent[0] / elapsed, 100 * sum(spent) / elapsed


def answered(engine: RunningEngine, model: str) -> None:
    """Return when a model has answered."""
    url = f"{engine.url}/v2/models/{model}/infer"
    body = b'{"inputs":[{"name":"features","shape":[1,30],"datatype":"FP32","data":[' + b"1," * 29 + b"1]}]}"
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
                answer.read()
            return
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            time.sleep(0.02)


def drop_to_servable(engine: RunningEngine, number: int) -> float:
    """Seconds from the last byte of a small ONNX file to its first answered request."""
    target = engine.inbox / f"dropped{number}.onnx"
    shutil.copyfile(SAMPLES / "3" / "cancer.onnx", target)
    began = time.perf_counter()
    answered(engine, f"dropped{number}")
    return time.perf_counter() - began


def killed_to_answer(engine: RunningEngine) -> float:
    """Seconds from the server's end by SIGKILL to its next answer, to a client that waits meanwhile."""
    time.sleep(STABLE_SECONDS)  # one that ends sooner is taken for one that can not start
    server = engine.client.status().server.pid
    assert server is not None
    os.kill(server, signal.SIGKILL)
    psutil.Process(server).wait()
    began = time.perf_counter()
    answered(engine, "dropped0")
    return time.perf_counter() - began


def registry_of_10_000(root: Path) -> None:
    fill(root, models=500, per_model=20)
    with Registry.open(Workspace.open(root)) as registry:

        def timed(work: Callable[[], object]) -> float:
            def once() -> float:
                began = time.perf_counter()
                work()
                return 1000 * (time.perf_counter() - began)

            return median(once, 9)

        page = timed(lambda: versions.list_versions(registry, limit=100))
        found = timed(lambda: versions.list_versions(registry, "model-00042", limit=100))
        opened = timed(lambda: versions.version_detail(registry, "model-00042", 20))
        moved = timed(
            lambda: changes.move_alias(
                registry, "model-00042", "candidate", "20" if moved_to_19(registry) else "19", "bench"
            )
        )
    show("registry of 10,000 versions: list a page", f"{page:.0f} ms", "100 ms")
    show("registry of 10,000 versions: filter", f"{found:.0f} ms", "100 ms")
    show("registry of 10,000 versions: open one", f"{opened:.0f} ms", "100 ms")
    show("registry of 10,000 versions: move an alias", f"{moved:.0f} ms", "-")


def moved_to_19(registry: Registry) -> bool:
    return registry.store.journal.history.aliases.get("model-00042", {}).get("candidate", "").startswith("19")


def main() -> None:
    print(f"Budgets, on {os.cpu_count()} cores; medians. Trust CPU times more than wall times on a shared machine.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root / "hundred", models=100, per_model=1, graph=SAMPLES / "3" / "cancer.onnx")
        engine = RunningEngine(root / "hundred")
        engine.start()
        try:
            show(
                "first paint of the terminal, 100 models",
                f"{median(lambda: first_paint(engine.workspace)):.2f} s",
                "1.0 s",
            )
            command = [STUDIO, "--workspace", str(engine.workspace), "ls"]
            show("studio ls, CPU", f"{median(lambda: cpu_of(command)):.2f} s", "0.4 s")
            alone, both = idle_share(engine)
            show("engine idle, CPU of one core", f"{alone:.2f} %", "0.5 %")
            show("engine and server idle, CPU of one core", f"{both:.2f} %", "-")
            numbers = iter(range(100))

            def drop() -> float:
                number = next(numbers)
                seconds = drop_to_servable(engine, number)
                until(lambda: not engine.client.status().jobs_active, "the lab to be done", 120)
                return seconds

            show("small ONNX dropped to first answer", f"{median(drop, 3):.2f} s", "2 s")
            seconds = median(lambda: killed_to_answer(engine), 3)
            show("killed server to next answer, 100 models", f"{seconds:.2f} s", "1 s")
        finally:
            engine.stop()
        registry_of_10_000(root / "ten-thousand")


if __name__ == "__main__":
    main()

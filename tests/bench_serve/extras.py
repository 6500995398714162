"""What only Studio is asked for: large bodies, hot swap, start and memory, a second session, the access log."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from studio.core.routing import Target
from studio.core.settings import ServingSettings
from studio.core.tensors import TensorSpec
from tests.bench_serve import contenders, servers, trees
from tests.bench_serve.loads import Sample, over_http, write_script
from tests.bench_serve.models import Model, make
from tests.bench_serve.servers import RAW_ONE
from tests.serving import graphs, harness

STARTS = 3
SWAP_SECONDS = 0.2
SCRAPE_SECONDS = 0.5


@dataclass(frozen=True)
class Swap:
    """p99 of requests while nothing changes and while versions change, in microseconds; medians of the rounds."""

    requests: int
    failed: int
    swaps: int
    p99_before_us: float
    p99_during_us: float


@dataclass(frozen=True)
class Extras:
    """`wide`: p50 added to a raw run by a large body, in microseconds, by protocol. Percentages are of what it was."""

    wide: dict[str, float]
    swap: Swap
    start_seconds: float
    rss_mb: float
    second_percent: float
    log_percent: float


def measure(tiny: Model, folder: Path, rounds: int, seconds: int) -> Extras:
    """All of it."""
    start_seconds, rss_mb = start(tiny, folder)
    return Extras(
        wide=wide(folder, rounds, seconds),
        swap=swap(tiny, folder, rounds, seconds),
        start_seconds=start_seconds,
        rss_mb=rss_mb,
        second_percent=second(folder),
        log_percent=access_log(tiny, folder, rounds, seconds),
    )


@dataclass
class _Server:
    """A server of one table, asked for JSON."""

    child: harness.Child
    tree: trees.Tree
    url: str
    script: Path
    generation: int = field(default=1)

    def load(self, at_once: int, seconds: int) -> Sample:
        return over_http(self.tree, self.url, self.script, at_once, seconds)

    def route(self, *targets: Target) -> None:
        """Put another table in force, and wait until it is."""
        self.generation += 1
        errors = self.child.apply(graphs.table(*targets, generation=self.generation))
        assert not errors, errors


@contextmanager
def _server(model: Model, folder: Path, settings: ServingSettings | None = None) -> Iterator[_Server]:
    folder.mkdir()
    with harness.running(folder, graphs.table(model.target), settings) as child:
        request = contenders.v2_json(model)
        script = write_script(request, folder, "json")
        url = f"http://127.0.0.1:{child.port}{request.path}"
        yield _Server(child, trees.Tree(child.process, child.log), url, script)


def start(tiny: Model, folder: Path) -> tuple[float, float]:
    """Seconds from the server's process to its first answer, and its RSS in MB then; medians."""
    seconds, sizes = [], []
    for number in range(STARTS):
        log = folder / f"start-{number}.log"
        with harness.listen() as listening:
            began = time.perf_counter()
            child = harness.spawn(listening, log)
            try:
                child.send("routes", table=graphs.table(tiny.target))
                servers.first_answer(trees.Tree(child.process, log), child.port, contenders.v2_json(tiny))
                seconds.append(time.perf_counter() - began)
                sizes.append(trees.Tree(child.process, log).memory()[1])
            finally:
                child.close()
    return statistics.median(seconds), statistics.median(sizes)


def wide(folder: Path, rounds: int, seconds: int) -> dict[str, float]:
    """What a large body adds to a raw run at the median, for one client."""
    model = make("wide", folder)
    added: dict[str, list[float]] = {}
    with servers.raw(model, folder / "wide-raw") as loops, servers.studio(model, folder / "wide-studio") as rows:
        for _ in range(rounds):
            raw = next(row for row in loops if row.name == RAW_ONE).load(1, seconds)
            for row in rows:
                added.setdefault(row.name, []).append(row.load(1, seconds).p50_us - raw.p50_us)
    return {name: statistics.median(values) for name, values in added.items()}


def swap(tiny: Model, folder: Path, rounds: int, seconds: int) -> Swap:
    """Requests while two versions take turns, every SWAP_SECONDS: each is loaded, warmed, swapped in, the other
    drained and unloaded."""
    versions = itertools.cycle((replace(tiny.target, version=2), tiny.target))
    before, during = [], []
    with _server(tiny, folder / "swap") as server:
        for _ in range(rounds):
            before.append(server.load(16, seconds))
            with _repeating(SWAP_SECONDS, lambda: server.route(next(versions))):
                during.append(server.load(16, seconds))
    return Swap(
        requests=sum(round(sample.rate * seconds) for sample in during),
        failed=sum(sample.failed for sample in (*before, *during)),
        swaps=server.generation - 1,
        p99_before_us=statistics.median(sample.p99_us for sample in before),
        p99_during_us=statistics.median(sample.p99_us for sample in during),
    )


def second(folder: Path) -> float:
    """How much more memory two versions take that are the same file of 67 MB, in percent of what one takes."""
    x, y = TensorSpec("x", "FP32", ("batch", 2048)), TensorSpec("y", "FP32", ("batch", 2048))
    rng = np.random.default_rng(5)
    weights = [numpy_helper.from_array(rng.random((2048, 2048), np.float32), f"w{n}") for n in range(4)]
    names = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(4)]
    path = graphs.save(folder / "heavy.onnx", nodes, [x], [y], weights)
    one = graphs.target(path, [x], [y], model="m", batchable=True)
    sizes = []
    with harness.running(folder) as child:
        tree = trees.Tree(child.process, child.log)
        sizes.append(tree.memory()[0])
        for generation, targets in ((2, (one,)), (3, (one, replace(one, version=2)))):
            assert not child.apply(graphs.table(*targets, generation=generation))
            sizes.append(tree.memory()[0])
    nothing, first, both = sizes
    return 100 * (both - first) / (first - nothing)


def access_log(tiny: Model, folder: Path, rounds: int, seconds: int) -> float:
    """How much more CPU a request takes with the access log on and /metrics read twice a second, in percent."""
    settings = ServingSettings(access_log=str(folder / "access.jsonl"))
    ratios = []
    with _server(tiny, folder / "plain") as plain, _server(tiny, folder / "logging", settings) as logging:

        def with_log() -> float:
            with _repeating(SCRAPE_SECONDS, lambda: logging.child.request("GET", "/metrics")):
                return logging.load(16, seconds).cpu_us

        # What is looked for is less than two measurements of the same differ by, so there are many, in turn.
        for number in range(8 * rounds):
            if number % 2:
                with_it, without = with_log(), plain.load(16, seconds).cpu_us
            else:
                without, with_it = plain.load(16, seconds).cpu_us, with_log()
            ratios.append(with_it / without)
    return 100 * (statistics.median(ratios) - 1)


@contextmanager
def _repeating(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Do something every so often, on a thread."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

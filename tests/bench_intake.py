"""What taking an arrival in costs, measured on real processes: `make bench-intake`. Prints figures, asserts nothing.

Everything that is compared is measured in turn, round after round, and its ratio taken in each round, so that a slow
minute meets both. Trust processor time more than time on the clock where the machine does other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from studio.core.settings import WorkerSettings
from studio.pipeline.arrival import open_arrival
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.guard import WORKER_NAME
from studio.pipeline.messages import IntakeTask
from studio.pipeline.process import spawn_worker
from tests.budgets import drop_to_servable, median
from tests.hostile.seeds import SEEDS
from tests.journeys.engines import RunningEngine, until
from tests.journeys.test_many import work_through

MB = 1e6

# What a user's own script does, after its imports: read, export, write. Prints processor and clock seconds of that.
BARE_HEAD = """
import json, resource, sys, time

def used():
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime

source, target = sys.argv[1:]
"""
BARE_TAIL = """
print(json.dumps([used() - cpu, time.perf_counter() - began]))
"""
BARE = {
    "pt2": """
import torch, torch.onnx, onnxscript
torch.set_num_threads(1)
cpu, began = used(), time.perf_counter()
torch.onnx.export(torch.export.load(source), dynamo=True, opset_version=20, verbose=False).save(target)
""",
    "pkl": """
import pickle, numpy, skl2onnx
from skl2onnx.common.data_types import FloatTensorType
cpu, began = used(), time.perf_counter()
model = pickle.load(open(source, "rb"))
kind = FloatTensorType([None, model.n_features_in_])
made = skl2onnx.to_onnx(model, initial_types=[("x", kind)], options={id(model): {"zipmap": False}})
open(target, "wb").write(made.SerializeToString())
""",
}


@dataclass(frozen=True)
class Cost:
    """Processor and clock seconds."""

    cpu: float
    clock: float


def deep_network(folder: Path, free: bool) -> Path:
    """24 blocks of separable convolutions: PyTorch's exporter works on it for six seconds of processor time."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            wide = width * 4
            self.layers = nn.Sequential(
                *(nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6()),
                *(nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6()),
                *(nn.Conv2d(wide, width, 1), nn.BatchNorm2d(width)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.layers(x)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 48, 3, 2, 1), nn.Linear(48, 100)
            self.blocks = nn.Sequential(*(Block(48) for _ in range(24)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.blocks(self.stem(x)).mean((2, 3)))

    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch", max=64)},) if free else None
    program = torch.export.export(Deep().eval(), (torch.randn(2, 3, 64, 64),), dynamic_shapes=shapes)
    path = folder / f"deep-{'free' if free else 'fixed'}.pt2"
    torch.export.save(program, path)
    return path


def forest(folder: Path) -> Path:
    """A random forest of 300 deep trees."""
    import pickle

    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    rows = rng.random((4000, 20), dtype=np.float32)
    model = RandomForestClassifier(300, random_state=0).fit(rows, (rows.sum(1) + rng.random(4000) > 10.5).astype(int))
    path = folder / "forest.pkl"
    path.write_bytes(pickle.dumps(model))
    return path


def bare(source: Path, target: Path) -> Cost:
    """The exporter alone, in a process of its own."""
    script = BARE_HEAD + BARE[source.suffix.removeprefix(".")] + BARE_TAIL
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script, str(source), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


async def taken_in(source: Path, servers: ForkServers | None) -> Cost:
    """The whole pipeline: a worker started, the file recognised, converted, compared with the source, and all told."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        cpu = 0.0

        def note(step: str, progress: float | None, _: str) -> None:
            nonlocal cpu
            if step == "checked" and progress == 1:
                cpu = sum(sum(one.cpu_times()[:2]) for one in psutil.Process(worker.pid).children() if is_worker(one))

        began = time.perf_counter()
        log = Path(folder) / "log"
        async with spawn_worker(WorkerSettings(), scratch, log, "onnx", fork_servers=servers) as worker:
            await worker.run(IntakeTask(files=(str(source),), out=str(scratch / "out")), note)
        return Cost(cpu, time.perf_counter() - began)


def is_worker(process: psutil.Process) -> bool:
    return bool(process.name() == WORKER_NAME)


def once_warm(servers: ForkServers, source: Path) -> None:
    """Take one in, and wait until the process that it was forked from has nothing to do any more."""
    asyncio.run(taken_in(source, servers))
    spent = -1.0
    while (now := sum(sum(one.cpu_times()[:2]) for one in psutil.Process().children())) > spent:
        spent = now
        time.sleep(1)


def overhead(folder: Path, rounds: int) -> None:
    print("\nThe whole pipeline over the bare exporter (read, export, write; without its imports). Budget 1.15")
    sources = {
        "PyTorch .pt2, free batch": deep_network(folder, free=True),
        "PyTorch .pt2, fixed batch (exported again to free it)": deep_network(folder, free=False),
        "scikit-learn pickle, 300 trees": forest(folder),
    }
    servers = ForkServers(folder / "warm")
    try:
        for title, source in sources.items():
            once_warm(servers, source)
            pairs = []
            for _ in range(rounds):
                pairs.append((bare(source, folder / "bare.onnx"), asyncio.run(taken_in(source, servers))))
            cpu = statistics.median(whole.cpu / alone.cpu for alone, whole in pairs)
            clock = statistics.median(whole.clock / alone.clock for alone, whole in pairs)
            alone, whole = pairs[-1]
            print(
                f"  {title:<56} exporter {alone.cpu:5.2f} s, pipeline {whole.cpu:5.2f} s of processor time: "
                f"x {cpu:.2f}; on the clock x {clock:.2f}",
                flush=True,
            )
    finally:
        servers.close()


def recognition(folder: Path) -> None:
    print("\nRecognising a file, median of 5. Budget 50 ms")
    worst: list[tuple[float, str]] = []
    for name, make in SEEDS.items():
        place = folder / f"seed-{name}".replace(" ", "-").replace("/", "-")
        place.mkdir()
        worst.append((timed_recognition(make(place)), name))
    for name, path in large_files(folder).items():
        worst.append((timed_recognition(path), name))
    for seconds, name in sorted(worst, reverse=True):
        print(f"  {name:<56} {1000 * seconds:8.2f} ms", flush=True)


def timed_recognition(path: Path) -> float:
    """As a worker does it: what is an archive is unpacked for it."""

    def once() -> float:
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            open_arrival((path,), path.stem, Path(scratch))
            return time.perf_counter() - began

    return median(once)


def large_files(folder: Path) -> dict[str, Path]:
    """Files of 300 MB, most of it weights."""
    import numpy as np
    import onnx
    import torch
    from safetensors.torch import save_file

    from tests.formats.graphs import built, save, tensor, value

    weights = np.random.default_rng(0).random((75_000, 1000), dtype=np.float32)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = [value("x", shape=("n", 75_000))], [value("y", shape=("n", 1000))]
    graph = save(built([node], inputs, outputs, [tensor("w", weights)]), folder / "large.onnx")
    torch.save({"w": torch.from_numpy(weights)}, folder / "large.pth")
    save_file({"w": torch.from_numpy(weights)}, folder / "large.safetensors")
    return {
        "ONNX, 300 MB": graph,
        "checkpoint, 300 MB": folder / "large.pth",
        "safetensors, 300 MB": folder / "large.safetensors",
    }


def warmth(folder: Path) -> None:
    print("\nOne small model after the other: seconds on the clock (of the worker's processor)")
    seeds = {"ONNX": "onnx", "PyTorch .pt2": "pt2", "scikit-learn pickle": "pkl", "Keras": "keras"}
    by_suffix: dict[str, Path] = {}
    for name, make in SEEDS.items():
        place = folder / f"warm-{name}".replace(" ", "-").replace("/", "-")
        place.mkdir()
        path = make(place)
        by_suffix.setdefault(path.suffix.removeprefix("."), path)
    servers = ForkServers(folder / "warm", most=3)
    try:
        for title, suffix in seeds.items():
            source = by_suffix[suffix]
            alone = asyncio.run(taken_in(source, None))
            first = asyncio.run(taken_in(source, servers))
            once_warm(servers, source)
            later = [asyncio.run(taken_in(source, servers)) for _ in range(5)]
            usual = Cost(statistics.median(x.cpu for x in later), statistics.median(x.clock for x in later))
            words = [f"{name} {one.clock:6.2f} ({one.cpu:5.2f})" for name, one in (("a fresh process", alone),)]
            words += [f"first {first.clock:6.2f} ({first.cpu:5.2f})", f"then {usual.clock:6.2f} ({usual.cpu:5.2f})"]
            print(f"  {title:<24} {'   '.join(words)}", flush=True)
    finally:
        servers.close()


def many(folder: Path, count: int) -> None:
    print(f"\n{count} small ONNX files dropped at once")
    found = work_through(folder / "many", count)
    print(f"  all are endpoints after                    {found.seconds:8.1f} s")
    print(f"  most processes that work at a time         {found.workers:8}")
    print(f"  peak memory of all processes (PSS)         {found.memory / MB:8.0f} MB, {found.idle / MB:.0f} MB idle")
    print(f"  farthest that one came before its turn     {found.displaced:8}", flush=True)


def drop(folder: Path) -> None:
    engine = RunningEngine(folder / "drop")
    engine.start()
    try:
        numbers = iter(range(100))

        def once() -> float:
            seconds = drop_to_servable(engine, next(numbers))
            until(lambda: not engine.client.status().jobs_active, "the lab to be done", 120)
            return seconds

        first = once()
        print(f"\nA small ONNX file dropped to its first answer: {first:.2f} s the first, {median(once, 3):.2f} s then")
    finally:
        engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-intake")
    parser.add_argument("--only", default="overhead,recognition,warmth,drop,many", help="some of these, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    print(f"Taking arrivals in, on {os.cpu_count()} cores.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], None]] = {
            "overhead": lambda: overhead(folder, options.rounds),
            "recognition": lambda: recognition(folder),
            "warmth": lambda: warmth(folder),
            "drop": lambda: drop(folder),
            "many": lambda: many(folder, options.count),
        }
        for part in options.only.split(","):
            parts[part]()


if __name__ == "__main__":
    main()

"""The search that the automatic choice is held against: every passing variant run beside all others, for longer.

A process of its own: `python -m tests.bench_lab.exhaustive` reads a JSON document `{"samples": …, "graphs": {name:
path}, "rounds": …}` from standard input and prints `{name: [milliseconds a run, one for each round]}`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SLICE_SECONDS = 0.03


@dataclass(frozen=True)
class Search:
    """Milliseconds a run of one row on one thread, by variant, over rounds in which all variants took turns."""

    rounds: dict[str, list[float]]

    @property
    def best(self) -> str:
        """The variant with the lowest median."""
        return min(self.rounds, key=lambda name: float(np.median(self.rounds[name])))

    def behind(self, name: str) -> tuple[float, float]:
        """How much slower than the best a variant is: the median of the rounds' ratios, and the low end of its 95 %
        interval (percentile bootstrap over rounds). 1 for the best itself."""
        ratios = np.asarray(self.rounds[name]) / np.asarray(self.rounds[self.best])
        drawn = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
        return float(np.median(ratios)), float(np.percentile(np.median(ratios[drawn], axis=1), 2.5))

    def among_the_best(self, name: str, tolerance: float = 0.05) -> bool:
        """Whether a variant is the best, or can not be told from it, or is behind by less than counts as a gain."""
        ratio, low = self.behind(name)
        return ratio <= 1 + tolerance or low <= 1


def search(graphs: dict[str, Path], samples: Path, rounds: int) -> Search:
    """Run all graphs in turn in a fresh process. Raises subprocess.CalledProcessError."""
    asked = {"samples": str(samples), "graphs": {name: str(path) for name, path in graphs.items()}, "rounds": rounds}
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    return Search(json.loads(done.stdout))


def _main() -> None:
    from studio.verify.inputs import load_samples, split_runs
    from studio.verify.session import initialise, open_session, runner, signature_of

    asked = json.load(sys.stdin)
    initialise()
    sessions = {name: open_session(path, threads=1) for name, path in asked["graphs"].items()}
    signature = signature_of(next(iter(sessions.values())))
    feeds = split_runs(signature, load_samples(asked["samples"], signature).inputs)[:64]
    once = {name: runner(session) for name, session in sessions.items()}
    counts = {}
    for name, run in once.items():
        run(feeds[0])
        started = time.perf_counter()
        run(feeds[0])
        counts[name] = max(1, min(2000, int(_SLICE_SECONDS / (time.perf_counter() - started))))
    found: dict[str, list[float]] = {name: [] for name in once}
    names = list(once)
    for turn in range(asked["rounds"]):
        # Whoever runs first in a round finds other caches than whoever runs last: they take turns at that too.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times = []
            for number in range(counts[name]):
                feed = feeds[(turn * 7 + number) % len(feeds)]
                started = time.perf_counter()
                once[name](feed)
                times.append(time.perf_counter() - started)
            found[name].append(1000 * float(np.median(times)))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _main()

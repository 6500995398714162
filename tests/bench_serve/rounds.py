"""The measuring itself: all servers of a model side by side, one after the other in every round (A B A B …)."""

from __future__ import annotations

import http.client
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench_serve import servers, trees
from tests.bench_serve.contenders import Peer
from tests.bench_serve.environments import Missing
from tests.bench_serve.loads import Sample
from tests.bench_serve.models import Model
from tests.bench_serve.servers import Running

Say = Callable[[str], None]
DISTURBED = 0.1
"""A measurement while others took a larger share of the machine is taken again."""


@dataclass
class Results:
    """`samples` by model, name and connections, one a round. `started` in seconds, `memory` as (PSS, RSS) in MB after
    the load on the first model. `missing`: why a peer is not in the table."""

    samples: dict[tuple[str, str, int], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    started: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)

    def names(self, model: str) -> list[str]:
        return list(dict.fromkeys(name for of, name, _ in self.samples if of == model))

    def median(self, model: str, name: str, at_once: int, what: str) -> float | None:
        """Of one figure of a `Sample` over the rounds; None where it was not measured."""
        values = [getattr(sample, what) for sample in self.samples.get((model, name, at_once), [])]
        return statistics.median(values) if values else None

    def ratio(self, model: str, name: str, other: str, at_once: int, what: str = "rate") -> float | None:
        """The median of the rounds' own ratios, so that a slow minute is in both its sides."""
        pairs = zip(
            self.samples.get((model, name, at_once), []), self.samples.get((model, other, at_once), []), strict=False
        )
        ratios = [getattr(one, what) / getattr(two, what) for one, two in pairs if getattr(two, what)]
        return statistics.median(ratios) if ratios else None

    def failed(self, model: str, name: str) -> int:
        taken = [samples for (of, whose, _), samples in self.samples.items() if (of, whose) == (model, name)]
        return sum(sample.failed for samples in taken for sample in samples)

    def others(self) -> tuple[float, float]:
        """The share of the machine that other processes took: the median of all measurements, and the worst."""
        shares = [sample.others for samples in self.samples.values() for sample in samples]
        return statistics.median(shares), max(shares)


def measure(
    model: Model,
    peers: Iterable[Peer],
    at_once: tuple[int, ...],
    rounds: int,
    seconds: int,
    tries: int,
    folder: Path,
    results: Results,
    say: Say,
) -> None:
    """All rounds of one model. What can not be started is noted in the results."""
    with ExitStack() as stack:
        rows = stack.enter_context(servers.raw(model, folder / f"{model.name}-raw"))
        rows.append(stack.enter_context(servers.bare(model, folder / f"{model.name}-bare")))
        rows += stack.enter_context(servers.studio(model, folder / f"{model.name}-studio"))
        rows.append(stack.enter_context(servers.processes(model, folder / f"{model.name}-processes")))
        rows[-1].tree.pause()
        for number, peer in enumerate(peers):
            if peer.name in results.missing:
                continue
            say(f"{model.name}: starting {peer.name}")
            try:
                row = stack.enter_context(servers.peer(peer, model, folder / f"{model.name}-{number}"))
            except Missing as reason:
                results.missing[peer.name] = reason.what
                say(f"{peer.name}: {reason.what}")
                continue
            row.tree.pause()
            rows.append(row)
        for row in rows:
            results.started[row.name].append(row.started)
        for number in range(rounds):
            results.loads.append(trees.load_average())
            for connections in at_once:
                say(f"{model.name}: round {number + 1} of {rounds}, {connections} at once, load {trees.load_average()}")
                for row in list(rows):
                    try:
                        sample = _one(row, connections, seconds, tries)
                    except (OSError, ValueError, subprocess.SubprocessError, http.client.HTTPException) as error:
                        results.missing[row.name] = f"ended under load: {row.tree.last_words() or error}"
                        say(f"{row.name}: {results.missing[row.name]}")
                        rows.remove(row)
                        continue
                    results.samples[model.name, row.name, connections].append(sample)
        for row in rows:
            results.memory.setdefault(row.name, row.tree.memory())


def _one(row: Running, connections: int, seconds: int, tries: int) -> Sample:
    """A measurement, taken again where others kept the machine busy; the least disturbed one counts."""
    row.tree.resume()
    try:
        row.warm()
        samples = [row.load(connections, seconds)]
        while samples[-1].others > DISTURBED and len(samples) < tries:
            samples.append(row.load(connections, seconds))
        return min(samples, key=lambda sample: sample.others)
    finally:
        if row.pausable:
            row.tree.pause()

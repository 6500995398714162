"""The tables, as Markdown: printed, and written between the markers of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime

from tests.bench_serve import contenders
from tests.bench_serve.environments import ENVIRONMENTS
from tests.bench_serve.extras import Extras
from tests.bench_serve.models import KINDS
from tests.bench_serve.rounds import Results
from tests.bench_serve.servers import PROCESSES
from tests.bench_serve.targets import Target

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- bench-serve: begin -->", "<!-- bench-serve: end -->"
NONE = "–"
_FIGURES = (("rate", "req/s", 1.0), ("cpu_us", "CPU µs", 1.0), ("p50_us", "p50 ms", 1e-3), ("p99_us", "p99 ms", 1e-3))


def render(
    results: Results, extras: Extras | None, targets: Sequence[Target], at_once: tuple[int, ...], how: str
) -> str:
    """Everything that the run found. `how` says with what options it was measured."""
    parts = [_circumstances(results, how), "### Targets", _targets(targets)]
    for model in dict.fromkeys(model for model, _, _ in results.samples):
        parts += [f"### {model}: {KINDS[model][1]}", _figures(results, model, at_once)]
    parts += ["### Start and memory", _servers(results)]
    if extras is not None:
        added = ", ".join(f"{name.removeprefix('Studio, ')} {value:,.0f} µs" for name, value in extras.wide.items())
        parts.append(f"Added to the p50 of a raw run by 602 kB of input (1.2 MB as JSON), one client: {added}.")
    if results.missing:
        lines = [f"- {name}: {_inline(reason)}" for name, reason in results.missing.items()]
        parts += ["### Not measured, or not to the end", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def write(text: str) -> None:
    """Put the text between the markers of the page."""
    page = PAGE.read_text()
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _circumstances(results: Results, how: str) -> str:
    day = datetime.now(UTC).date().isoformat()
    python, runtime = platform.python_version(), onnxruntime.__version__
    loads = "; ".join(results.loads)
    median, worst = (f"{100 * share:.0f} %" for share in results.others())
    return (
        f"{day}, {os.cpu_count()} cores ({_processor()}), {platform.system()}, Python {python}, "
        f"ONNX Runtime {runtime}, {how}. Other work took {median} of the cores (median of all measurements; "
        f"worst {worst}); load averages (1, 5, 15 minutes) before each round: {loads}."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _targets(targets: Sequence[Target]) -> str:
    lines = ["| What | Target | Reached | |", "|---|---|---|---|"]
    for target in targets:
        verdict = ("met" if target.met else "**not met**") if target.reached else "not measured"
        lines.append(f"| {target.what} | {target.wanted} | {target.reached or NONE} | {verdict} |")
    return "\n".join(lines)


def _figures(results: Results, model: str, at_once: tuple[int, ...]) -> str:
    counts = [count for count in at_once if any(of == model and n == count for of, _, n in results.samples)]
    heads = [f"{words}, {count}" for _, words, _ in _FIGURES for count in counts]
    lines = ["| Server | " + " | ".join(heads) + " |", "|---" + "|--:" * len(heads) + "|"]
    for name in results.names(model):
        cells = [_cell(results, model, name, n, what, scale) for what, _, scale in _FIGURES for n in counts]
        failed = results.failed(model, name)
        lines.append(f"| {name}{f' ({failed:,} failed)' if failed else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(results: Results, model: str, name: str, at_once: int, what: str, scale: float) -> str:
    value = results.median(model, name, at_once, what)
    if value is None or value != value:
        return NONE
    value *= scale
    digits = 0 if scale == 1 or value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f}"


def _servers(results: Results) -> str:
    """Medians of the starts; memory after the load on the first model, of all its processes."""
    lines = ["| Server | Version | First answer after, s | PSS, MB | RSS, MB | Set up |", "|---|---|--:|--:|--:|---|"]
    studio = next(name for name in results.memory if name.startswith("Studio"))
    rows = {"Studio": (studio, "", "one process: HTTP and gRPC, batches of what waits")}
    rows["Studio, a process a core"] = (PROCESSES, "", "`serving.workers`; with the engine's part that watches them")
    rows |= {peer.name: (peer.name, _version(peer.environment), peer.note) for peer in contenders.ALL}
    for title, (name, version, note) in rows.items():
        if name in results.memory:
            pss, rss = results.memory[name]
            first = statistics.median(results.started[name])
            lines.append(f"| {title} | {version or 'this'} | {first:.1f} | {pss:.0f} | {rss:.0f} | {note} |")
    return "\n".join(lines)


def _version(environment: str) -> str:
    return ENVIRONMENTS[environment].requirements[0].partition("==")[2]


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

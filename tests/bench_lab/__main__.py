"""`make bench-lab`, or `python -m tests.bench_lab --help`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from studio.core.choice import choose
from studio.core.names import REFERENCE_VARIANT
from studio.optimize.base import recipes
from tests.bench_lab import exhaustive, models, report
from tests.journeys.engines import RunningEngine, until


def main() -> None:
    given = _arguments()
    wanted = [
        model for model in models.ALL if given.models in ("", model.name) or model.name in given.models.split(",")
    ]
    with tempfile.TemporaryDirectory(prefix="studio-lab-") as name:
        folder, began = Path(name), time.monotonic()
        engine = RunningEngine(folder / "workspace")
        engine.workspace.mkdir()
        (engine.workspace / "studio.toml").write_text(
            f"[serving]\nport = 0\n[workers]\nlab_seconds = {given.budget}\n", encoding="utf-8"
        )
        client = engine.start()
        try:
            found = [_try(engine, model, folder, given.rounds) for model in wanted]
        finally:
            client.close()
            engine.stop()
    text = report.render(found, f"{given.rounds} rounds of the search")
    print(text)
    if given.write:
        report.write(text)
    _say(f"took {time.monotonic() - began:.0f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench_lab", description=__doc__)
    parser.add_argument("--models", default="", help=f"some of {','.join(model.name for model in models.ALL)}")
    parser.add_argument("--rounds", type=int, default=40, help="of the exhaustive search")
    parser.add_argument("--budget", type=int, default=3600, help="seconds that the lab may take for one model")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/lab.md as it is")
    return parser.parse_args()


def _try(engine: RunningEngine, model: models.Model, folder: Path, rounds: int) -> report.Tried:
    """Drop one model with every recipe asked for, wait for the lab, and search among what passed."""
    made = folder / model.name
    made.mkdir()
    _say(f"{model.name}: training and writing")
    _write(model, made)
    names = [name for name in recipes() if name != REFERENCE_VARIANT]
    (made / f"{model.name}.toml").write_text(f"recipes = {names!r}\n".replace("'", '"'), encoding="utf-8")
    _say(f"{model.name}: in the lab")
    began = time.monotonic()
    engine.drop(made)
    job = engine.finished_job(model.name, seconds=3600)
    if job.state != "done" or job.version is None:
        raise SystemExit(f"{model.name} was not taken in: {job.problem.sentence() if job.problem else job.state}")
    seconds = time.monotonic() - began
    detail = engine.client.version(model.name, job.version)
    choice = choose(detail.variants, detail.variants[0].machine)
    passing = {
        one.variant: engine.workspace / "store" / "blobs" / "sha256" / one.graph.file.sha256
        for one in detail.variants
        if one.graph is not None and one.verdict.outcome in ("reference", "keep")
    }
    _say(f"{model.name}: searching among {', '.join(passing)}")
    samples = until(lambda: next(made.glob("*.npz"), None), "the samples")
    searched = exhaustive.search(passing, samples, rounds)
    shutil.rmtree(made)
    return report.Tried(model.name, model.about, detail.manifest, tuple(detail.variants), choice, searched, seconds)


def _write(model: models.Model, folder: Path) -> None:
    """In a process of its own, so that nothing of the training stays in memory beside what is measured."""
    code = (
        "import sys, torch; from pathlib import Path; from tests.bench_lab import models; torch.set_num_threads(1)\n"
        "next(m for m in models.ALL if m.name == sys.argv[1]).write(Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, model.name, str(folder)], check=True)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

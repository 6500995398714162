"""The lab lane: what it makes, what it takes over, what it leaves when its time is over, and how it is stopped."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from studio.core.errors import Conflict, InvalidInput, NotFound, StepFailed
from studio.core.jobs import Job
from studio.core.manifest import Interval, Outcome, Samples, VariantManifest, Verdict, VersionManifest
from studio.core.recipe import plan_of
from studio.core.recording import part_name
from studio.engine import lab as laboratory
from studio.engine.captured import Captured
from studio.engine.lab import Lab
from studio.engine.lab_orders import LabOrders
from studio.optimize.plans import parse_plan
from studio.pipeline import variants
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import VariantResult, VariantTask
from studio.pipeline.variants import Hold
from studio.store.journal import utc_now
from tests.engine.conftest import Parts
from tests.manifests import fidelity, measurement, version

SMALL = """
[[steps]]
recipe = "sparse"
amount = 0.2

[[steps]]
recipe = "int8"
"""


@dataclass
class Workers:
    """Stands for the workers of the lab: judges at once, as `outcomes` and `speeds` say."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    wanting: set[str] = field(default_factory=set)  # what does not apply for want of samples
    meanwhile: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    tasks: list[VariantTask] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    seconds: float = 1.0  # what each takes, on a clock of their own
    now: float = 1000.0

    @property
    def made(self) -> list[str]:
        return [task.plan.name for task in self.tasks]

    async def __call__(self, settings, scratch, log, task: VariantTask, machine, tell, fork_servers=None, hold=None):
        assert isinstance(hold, Hold)
        self.tasks.append(task)
        self.walls.append(settings.wall_seconds)
        tell("optimised", 0.5, "at work")
        if task.plan.name in self.meanwhile:
            await self.meanwhile[task.plan.name]()
        self.now += self.seconds
        await asyncio.sleep(0)
        name = task.plan.name
        outcome = self.outcomes.get(name, "reference" if name == "fp32" else "keep")
        verdict = Verdict(outcome=outcome, sentence=f"{name}: {outcome}.", reason=f"{outcome} for a reason")
        if name in self.failing:
            return VariantResult(verdict=replace(verdict, outcome="reject"), machine=machine, tools={})
        if name in self.wanting:
            verdict = replace(verdict, outcome="not applicable")
            return VariantResult(verdict=verdict, machine=machine, tools={}, wants_samples=True)
        if outcome == "not applicable":
            return VariantResult(verdict=verdict, machine=machine, tools={})
        speed = self.speeds.get(name, 2.0)
        figures = replace(measurement(1.0), speedup=None if name == "fp32" else Interval(speed, speed, speed))
        path = scratch / "out" / "model.onnx"
        if task.graph:
            shutil.copy(task.graph, path)
        else:
            path.write_bytes(f"graph of {name}".encode())
        graph = None if name == "fp32" else version(None).graph
        if graph:
            from studio.pipeline.intake import file_ref

            graph = replace(graph, file=file_ref(path))
        return VariantResult(
            verdict=verdict,
            machine=machine,
            tools={},
            graph=graph,
            graph_path=str(path),
            fidelity=fidelity(0.999),
            measurement=figures,
        )


class Bench(Parts):
    """A lab over a workspace, with workers that cost nothing."""

    def furnish(self, workers: Workers) -> None:
        self.workers, self.open = workers, True
        settings = self.workspace.settings
        two = replace(settings, workers=replace(settings.workers, recipes=("fp16", "int8")))
        object.__setattr__(self.workspace, "settings", two)
        self.lab = Lab(self.workspace, self.keep, ForkServers(self.workspace.run / "warm", 0, 1.0))
        self.orders = LabOrders(self.keep, self.jobs, self.lab, self.logs, ("fp16", "int8"))

        async def nothing(jobs: object, key: str) -> None:
            return

        self.jobs.use(nothing, self.lab.run)

    async def version(self, model: str = "digits", content: str = "same", **changes: object) -> VersionManifest:
        blobs = self.keep.store.blobs
        draft = version(blobs, model=model, content=content)
        samples = replace(draft.samples, kind="labelled", file=blobs.put_bytes(b"rows", "samples.npz"))
        return await self.keep.add_version(replace(draft, samples=samples, created=utc_now(), **changes))

    async def arrive(self, model: str = "digits", **changes: object) -> Job:
        """An arrival that is registered, and through the lab."""
        manifest = await self.version(model, **changes)
        job = self.jobs.update(replace(self.job(model, f"{model}.toy"), model=model, version=manifest.version))
        self.jobs.submit(job.id)
        return await self.done(job)

    async def close(self) -> None:
        if self.open:
            self.open = False
            await self.jobs.stop()
            await self.keep.close()
            self.logs.close()

    async def done(self, job: Job) -> Job:
        async with asyncio.timeout(20):
            while not self.jobs.get(job.id).finished:  # noqa: ASYNC110 - as a client would
                await asyncio.sleep(0.005)
        return self.jobs.get(job.id)

    async def variants(self, model: str = "digits", number: int = 1) -> dict[str, VariantManifest]:
        return {one.variant: one for one in (await self.keep.version_detail(model, number)).variants}


@pytest.fixture
async def bench(tmp_path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    workers = Workers()
    monkeypatch.setattr(laboratory, "make_variant", workers)
    clock = SimpleNamespace(monotonic=lambda: workers.now)
    monkeypatch.setattr(laboratory, "time", clock)
    monkeypatch.setattr(variants, "time", clock)
    await made.keep.open()
    made.furnish(workers)
    yield made
    await made.close()


def limited(bench: Bench, **changes: object) -> None:
    settings = bench.workspace.settings
    object.__setattr__(bench.workspace, "settings", replace(settings, workers=replace(settings.workers, **changes)))


async def test_an_arrival_gets_the_default_recipes_and_ends_with_the_choice(bench: Bench) -> None:
    bench.workers.speeds = {"int8": 3.0}
    job = await bench.arrive()
    assert (job.state, bench.workers.made) == ("done", ["fp32", "fp16", "int8"])
    assert job.note == "int8: keep for a reason; fp16 kept too: keep for a reason."
    row = (await bench.keep.version_detail("digits", 1)).row
    assert (row.auto, row.choice) == ("int8", job.note)
    assert bench.keep.resolve("digits:1-auto").name == "digits:1-int8"


async def test_equal_content_is_never_judged_twice(bench: Bench) -> None:
    await bench.arrive("digits")
    bench.workers.tasks.clear()
    await bench.arrive("letters")
    assert bench.workers.made == []
    known, own = await bench.variants("digits"), await bench.variants("letters")
    assert own["int8"].taken_from == "digits:1-int8" and own["int8"].measurement == known["int8"].measurement
    assert own["fp32"].verdict.outcome == "reference"
    assert bench.keep.resolve("letters:1-int8").sha256 == bench.keep.resolve("digits:1-int8").sha256
    # The evidence outlives the version that it came from.
    await bench.keep.archive("digits", 1, "test")
    await bench.keep.purge("digits", 1, "test")
    assert bench.keep.store.blobs.verify(bench.keep.resolve("letters:1-int8").sha256)


@pytest.mark.parametrize(
    "changes",
    [{"content": "other weights"}, {"gates": {"min_cosine": 0.5}}, {"samples": "others"}, {"machine": "other"}],
)
async def test_whatever_the_evidence_rests_on_counts(bench: Bench, changes: dict[str, object]) -> None:
    await bench.arrive("digits")
    bench.workers.tasks.clear()
    if changes.pop("machine", ""):
        bench.lab.machine = replace(bench.lab.machine, cores=512)
    if changes.pop("samples", ""):
        manifest = await bench.version("letters")
        file = bench.keep.store.blobs.put_bytes(b"other rows", "samples.npz")
        changed = replace(manifest, samples=replace(manifest.samples, file=file))
        assert bench.lab.content_of(changed, plan_of("int8")) != bench.lab.content_of(manifest, plan_of("int8"))
        return
    await bench.arrive("letters", **changes)
    assert bench.workers.made == ["fp32", "fp16", "int8"]


async def test_an_order_makes_what_is_missing_and_nothing_twice(bench: Bench) -> None:
    await bench.arrive()
    assert await bench.orders.order("digits:1") == []
    bench.workers.tasks.clear()
    (job,) = await bench.orders.order("digits:1", ["int8-static", "int8"], [("small.toml", SMALL)])
    assert (job.kind, job.stem) == ("lab", "digits:1")
    ended = await bench.done(job)
    assert bench.workers.made == ["int8-static", "small"]
    assert [step.state for step in ended.steps] == ["skipped"] * 6 + ["done"] * 3
    made = await bench.variants()
    assert made["small"].plan.text == "sparse (amount 0.2), then int8"
    # The same file once more: it is there.
    assert await bench.orders.order("digits:1", [], [("small.toml", SMALL)]) == []


async def test_what_is_under_way_is_not_ordered_twice(bench: Bench) -> None:
    bench.orders.pause()
    manifest = await bench.version()
    job = bench.jobs.update(replace(bench.job(), model="digits", version=manifest.version))
    bench.jobs.submit(job.id)
    # The arrival's own run of the lab does all of it.
    assert [one.id for one in await bench.orders.order("digits:1")] == [job.id]
    assert [one.id for one in await bench.orders.order("digits:1", ["int8"])] == [job.id]
    (more,) = await bench.orders.order("digits:1", ["sparse"])
    assert more.id != job.id
    both = await bench.orders.order("digits:1", ["int8", "sparse"])
    assert {one.id for one in both} == {job.id, more.id}
    (again,) = await bench.orders.order("digits:1", ["int8"], again=True)
    assert again.id not in (job.id, more.id)
    bench.orders.resume()
    for one in (job, more, again):
        assert (await bench.done(one)).state == "done"
    assert bench.workers.made == ["fp32", "fp16", "int8", "sparse", "fp32", "int8"]
    assert await bench.orders.order("digits:1") == []


async def test_judged_again_is_a_further_run_of_the_same_graph(bench: Bench) -> None:
    await bench.arrive()
    before = (await bench.variants())["int8"]
    await bench.keep.move_alias("digits", "production", "1-auto", "", "test")
    bench.workers.tasks.clear()
    bench.workers.outcomes = {"int8": "reject"}
    (job,) = await bench.orders.order("digits:1", ["int8"], again=True)
    await bench.done(job)
    assert bench.workers.made == ["fp32", "int8"]
    assert before.graph is not None
    assert bench.workers.tasks[1].graph == str(bench.keep.store.blobs.path(before.graph.file.sha256))
    after = (await bench.variants())["int8"]
    assert (after.run, after.verdict.outcome, after.graph) == (2, "reject", before.graph)
    # What serves stays; what `auto` means follows the evidence.
    assert bench.keep.resolve("digits").variant in ("int8", "fp16")
    assert bench.keep.resolve("digits:1-auto").variant == "fp16"
    events = [entry.action for entry in await bench.keep.journal_entries(3)]
    assert events[:2] == ["variant.judged", "variant.judged"]


async def test_what_failed_elsewhere_is_tried_here(bench: Bench) -> None:
    bench.workers.failing = {"int8"}
    await bench.arrive("digits")
    assert (await bench.variants())["int8"].verdict.outcome == "reject"
    bench.workers.tasks.clear()
    bench.workers.failing = set()
    await bench.arrive("letters")
    assert bench.workers.made == ["int8"]
    assert (await bench.variants("letters"))["int8"].verdict.outcome == "keep"


async def test_what_could_not_be_made_is_made_again(bench: Bench) -> None:
    bench.workers.outcomes = {"int8": "not applicable"}
    await bench.arrive()
    assert (await bench.variants())["int8"].graph is None
    bench.workers.outcomes = {}
    (job,) = await bench.orders.order("digits:1", ["int8"], again=True)
    await bench.done(job)
    after = (await bench.variants())["int8"]
    assert (after.run, after.verdict.outcome) == (2, "keep") and after.graph is not None
    assert bench.keep.resolve("digits:1-int8").variant == "int8"


async def test_what_wanted_samples_is_tried_again_when_there_are_more(bench: Bench, tmp_path: Path) -> None:
    requests, waited = tmp_path / "requests", []

    async def written() -> None:
        waited.append(sorted(path.name for path in requests.iterdir()))

    bench.lab = Lab(
        bench.workspace,
        bench.keep,
        ForkServers(bench.workspace.run / "warm", 0, 1.0),
        Captured(lambda _: requests, written),
    )
    bench.orders = LabOrders(bench.keep, bench.jobs, bench.lab, bench.logs, ("fp16", "int8"))
    bench.jobs.use(bench.jobs._lanes["intake"], bench.lab.run)
    bench.workers.wanting, bench.workers.outcomes = {"int8"}, {"fp16": "not applicable"}
    manifest = await bench.version()
    blobs = bench.keep.store.blobs
    made_up = Samples(kind="synthetic", count=10, file=blobs.put_bytes(b"made up", "samples.npz"))
    manifest = await bench.keep.add_version(replace(manifest, samples=made_up))
    stem = f"digits:{manifest.version}"
    (job,) = await bench.orders.order(stem)
    await bench.done(job)
    assert (await bench.variants(number=2))["int8"].refused_rows == 0
    assert await bench.orders.order(stem) == [] and waited == []
    requests.mkdir()
    record(requests, 1, 10)
    assert await bench.orders.order(stem) == []  # too few to be samples at all
    record(requests, 2, 20)
    bench.workers.tasks.clear()
    (job,) = await bench.orders.order(stem)
    await bench.done(job)
    # Only what wanted samples, and with those there are by now; what was refused for another reason stays.
    assert [(task.plan.name, task.kind) for task in bench.workers.tasks] == [("int8", "captured")]
    assert (await bench.variants(number=2))["int8"].refused_rows == 30
    assert len(waited) == 3 and await bench.orders.order(stem) == []
    record(requests, 3, 20)
    bench.workers.wanting = {"int8-static"}
    (job,) = await bench.orders.order(stem, ["int8", "int8-static"])
    await bench.done(job)
    after = (await bench.variants(number=2))["int8"]
    assert (after.run, after.verdict.outcome, after.refused_rows) == (3, "keep", None) and after.graph is not None
    # One that was asked for by itself is not forgotten either; nor is it taken for what an older job does.
    bench.orders.pause()
    record(requests, 4, 20)
    (older,) = await bench.orders.order(stem, ["int8-static", "sparse"])
    record(requests, 5, 20)
    (job,) = await bench.orders.order(stem)
    assert job.id != older.id and [plan.name for plan in job.plans] == ["fp16", "int8", "int8-static"]
    bench.orders.resume()
    await bench.done(older)
    await bench.done(job)
    assert (await bench.variants(number=2))["int8-static"].refused_rows == 90


def record(folder: Path, number: int, rows: int) -> None:
    """One file of a recording, as the server writes it."""
    values = np.random.default_rng(number).random((rows, 64)).astype(np.float32)
    np.savez(folder / part_name(number, 1, 1, rows), x=values)


async def test_stale_figures_are_measured_again_when_asked(bench: Bench) -> None:
    await bench.arrive("digits")
    await bench.arrive("letters", content="other")
    (job,) = await bench.orders.order("letters:1", ["sparse"])
    await bench.done(job)
    assert await bench.orders.order_stale() == []
    await bench.close()
    here = replace(bench.lab.machine, runtime="onnxruntime 99")
    moved = Bench(bench.workspace.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studio.engine.keep.this_machine", lambda: here)
        await moved.keep.open()
    moved.furnish(bench.workers)
    moved.lab.machine = here
    try:
        row = (await moved.keep.version_detail("digits", 1)).row
        assert row.auto == "fp32" and "onnxruntime 99" in {one.variant: one.stale for one in row.variants}["int8"]
        bench.workers.tasks.clear()
        (job,) = await moved.orders.order_stale("letters:1")
        assert job.stem == "letters:1"  # that one alone
        assert [one.id for one in await moved.orders.order("letters:1")] == [job.id]
        await moved.done(job)
        assert await moved.orders.order_stale("letters:1") == []
        assert bench.workers.made == ["fp32", "fp16", "int8", "sparse"]  # the last was asked for by itself
        jobs = await moved.orders.order_stale()
        assert [job.stem for job in jobs] == ["digits:1"]
        jobs = [*jobs, job]
        assert {job.stem for job in jobs} == {"digits:1", "letters:1"}
        for job in jobs:
            await moved.done(job)
        assert bench.workers.made[4:] == ["fp32", "fp16", "int8"]
        row = (await moved.keep.version_detail("digits", 1)).row
        assert row.auto != "fp32" and not any(one.stale for one in row.variants)
        assert await moved.orders.order_stale() == []
    finally:
        await moved.close()


async def test_the_time_of_an_arrival_ends_and_what_is_left_is_said(bench: Bench) -> None:
    limited(bench, lab_seconds=100.0)
    bench.workers.seconds = 150.0
    job = await bench.arrive()
    assert job.state == "done" and bench.workers.made == ["fp32"]
    assert "left: fp16, int8. Go on: studio lab digits:1" in job.note
    limited(bench, lab_seconds=400.0)
    bench.workers.walls.clear()
    await bench.arrive("letters", content="other")
    # The reference takes what it takes; what is made of it has what is left.
    assert bench.workers.walls[1:] == [250.0, 100.0]
    bench.workers.tasks.clear()
    (order,) = await bench.orders.order("digits:1")
    ended = await bench.done(order)
    assert bench.workers.made == ["fp16", "int8"] and "left" not in ended.note


async def test_a_paused_lab_waits_and_its_clock_stands_still(bench: Bench) -> None:
    assert bench.orders.pause().paused and bench.orders.state().paused
    limited(bench, lab_seconds=100.0)
    manifest = await bench.version()
    job = bench.jobs.update(replace(bench.job(), model="digits", version=manifest.version))
    bench.jobs.submit(job.id)
    await asyncio.sleep(0.05)
    assert bench.workers.made == []
    bench.workers.now += 1000
    assert not bench.orders.resume().paused
    ended = await bench.done(job)
    assert bench.workers.made == ["fp32", "fp16", "int8"] and "left" not in ended.note


@pytest.mark.parametrize("plan", ["fp32", "int8"])
async def test_a_version_deleted_meanwhile_ends_its_work_as_that(bench: Bench, plan: str) -> None:
    manifest = await bench.version()
    job = bench.jobs.update(replace(bench.job(), model="digits", version=manifest.version))

    async def delete() -> None:
        await bench.keep.archive("digits", 1, "test")
        await bench.keep.purge("digits", 1, "test")
        if plan == "fp32":  # without which nothing can be judged; of others it would be the verdict
            raise StepFailed("ONNX Runtime can not load this graph.", "File doesn't exist.")

    bench.workers.meanwhile[plan] = delete
    bench.jobs.submit(job.id)
    ended = await bench.done(job)
    assert ended.state == "cancelled" and ended.problem is not None
    assert "digits:1 was deleted" in ended.problem.what
    # Nor does it get further when it is tried again.
    await bench.jobs.retry(job.id)
    again = await bench.done(job)
    assert again.state == "cancelled" and again.note == "digits:1 was deleted"


async def test_a_failure_stays_one_where_the_version_is_there(bench: Bench) -> None:
    async def fail() -> None:
        raise StepFailed("ONNX Runtime can not load this graph.")

    bench.workers.meanwhile["fp32"] = fail
    job = await bench.arrive()
    assert job.state == "failed" and job.problem is not None and "can not load" in job.problem.what


async def test_an_order_survives_the_engine(bench: Bench) -> None:
    await bench.arrive()
    bench.orders.pause()
    (job,) = await bench.orders.order("digits:1", [], [("small.toml", SMALL)])
    assert bench.orders.state().jobs == (job.id,)
    await bench.jobs.stop()
    again = Parts(bench.workspace.root)
    again.jobs.use(*bench.jobs._lanes.values())
    bench.orders.resume()
    again.jobs.recover()
    async with asyncio.timeout(20):
        while not again.jobs.get(job.id).finished:  # noqa: ASYNC110 - as a client would
            await asyncio.sleep(0.005)
    assert again.jobs.get(job.id).state == "done"
    assert (await bench.variants())["small"].plan == job.plans[0]


async def test_orders_that_make_no_sense_are_refused(bench: Bench) -> None:
    await bench.arrive()
    with pytest.raises(NotFound, match="no recipe 'int9'"):
        await bench.orders.order("digits:1", ["int9"])
    with pytest.raises(NotFound):
        await bench.orders.order("digits:7")
    with pytest.raises(InvalidInput, match="Two recipes"):
        await bench.orders.order("digits:1", ["int8", "int8"])
    with pytest.raises(InvalidInput, match=r"small\.toml, line 3"):
        await bench.orders.order("digits:1", [], [("small.toml", SMALL.replace('"sparse"', '"spars"'))])
    (job,) = await bench.orders.order("digits:1", [], [("small.toml", SMALL)])
    await bench.done(job)
    with pytest.raises(Conflict, match="made in another way"):
        await bench.orders.order("digits:1", [], [("small.toml", SMALL.replace("0.2", "0.3"))])
    served = await bench.version("old", content="old", serve_only="It is an .ort file.")
    with pytest.raises(Conflict, match="No variants"):
        await bench.orders.order(f"old:{served.version}", ["int8"])
    await bench.keep.archive("digits", 1, "test")
    with pytest.raises(Conflict, match="archived"):
        await bench.orders.order("digits:1")


async def test_a_name_stands_for_one_plan_while_it_is_made_too(bench: Bench) -> None:
    await bench.arrive()
    other = ("small.toml", SMALL.replace("0.2", "0.5"))
    bench.orders.pause()
    (first,) = await bench.orders.order("digits:1", [], [("small.toml", SMALL)])
    with pytest.raises(Conflict, match="being made in another way") as refused:
        await bench.orders.order("digits:1", [], [other])
    assert "another name" in refused.value.fix and first.id in refused.value.fix
    # One that was taken nevertheless, by another engine for one, finds out when it is its turn.
    version = (await bench.keep.version_detail("digits", 1)).manifest
    second = bench.jobs.create_lab(version, (parse_plan(other[1], other[0]),), again=False)
    bench.jobs.submit(second.id)
    bench.orders.resume()
    assert (await bench.done(first)).state == "done"
    ended = await bench.done(second)
    assert ended.state == "failed" and ended.problem is not None
    assert "was made in another way" in ended.problem.what and ended.problem.fix == "Give your recipe another name."
    assert (await bench.variants())["small"].plan.text == "sparse (amount 0.2), then int8"
    # A recipe of the workspace that was rewritten is no reason to refuse what everyone gets.
    folder = bench.workspace.root / "recipes"
    folder.mkdir()
    (folder / "small.toml").write_text(other[1])
    limited(bench, recipes=("small", "sparse"))
    (job,) = await bench.orders.order("digits:1")
    assert (await bench.done(job)).state == "done"
    assert (await bench.variants())["small"].run == 1


async def test_recipes_of_the_workspace_are_listed_and_taken_by_name(bench: Bench) -> None:
    await bench.arrive()
    folder = bench.workspace.root / "recipes"
    folder.mkdir()
    (folder / "small.toml").write_text(SMALL)
    (folder / "broken.toml").write_text("steps = 3")
    state = bench.orders.state()
    entries = {one.name: one for one in state.recipes}
    assert "fp32" not in entries and entries["int8"].origin == "built in"
    assert entries["small"].steps == "sparse (amount 0.2), then int8" and entries["broken"].problem
    assert state.defaults == ("fp16", "int8") and state.folder == str(folder)
    (job,) = await bench.orders.order("digits:1", ["small"])
    await bench.done(job)
    assert "small" in await bench.variants()
    with pytest.raises(InvalidInput, match="broken"):
        await bench.orders.order("digits:1", ["broken"])

"""What a user asks of the lab: more recipes for a version, recipes of their own, everything stale measured again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.core.choice import stale_words
from studio.core.errors import Conflict, InvalidInput, NotFound
from studio.core.jobs import Job
from studio.core.manifest import VersionManifest
from studio.core.names import AUTO, REFERENCE_VARIANT, Reference
from studio.core.recipe import Plan, plan_of
from studio.core.views import LabState, VersionDetail
from studio.engine.lab import Turn, planned, refuse_others
from studio.optimize.base import recipes
from studio.optimize.plans import describe, parse_plan, plans_in

if TYPE_CHECKING:
    from studio.engine.jobs import Jobs
    from studio.engine.keep import Keep
    from studio.engine.lab import Lab
    from studio.engine.logs import Logs

PAGE = 1000


class LabOrders:
    """Takes orders for the lab. Methods belong to the engine's event loop."""

    def __init__(self, keep: Keep, jobs: Jobs, lab: Lab, logs: Logs, defaults: Sequence[str]) -> None:
        self._keep, self._jobs, self._lab, self._logs = keep, jobs, lab, logs
        self._defaults = tuple(defaults)

    def state(self) -> LabState:
        """Whether the lab is held, what it does, and all recipes."""
        rows = tuple(one for one in describe(self._lab.folder) if one.name != REFERENCE_VARIANT)
        working = tuple(job.id for job in self._jobs.newest(PAGE) if job.in_lab)
        return LabState(
            paused=self._lab.hold.on,
            jobs=working,
            recipes=rows,
            defaults=self._defaults,
            folder=str(self._lab.folder),
            machine=self._lab.machine,
        )

    def pause(self) -> LabState:
        """Stop what the lab runs where it is; it begins nothing until it is resumed, or the engine starts again."""
        if not self._lab.hold.on:
            self._lab.hold.stop()
            self._logs.add("job", "info", "the lab is paused")
        return self.state()

    def resume(self) -> LabState:
        """Let the lab go on."""
        if self._lab.hold.on:
            self._lab.hold.release()
            self._logs.add("job", "info", "the lab goes on")
        return self.state()

    async def order(
        self, reference: str, names: Sequence[str] = (), own: Sequence[tuple[str, str]] = (), again: bool = False
    ) -> list[Job]:
        """Make variants of a version by the recipes of these names and by plans of the user's `own` (name of the file,
        its TOML); without any, by those of the settings. What there is, is left alone unless it is stale, or `again`.

        No job where nothing is left to do, and no further one where unfinished ones do all of it: those are given
        then. Raises NotFound, InvalidInput, and Conflict for a version that can only be
        served or a plan whose name another has.
        """
        detail = await self._keep.version_detail(*await self._version(reference))
        if detail.row.state == "archived":
            raise Conflict(
                f"{detail.row.model}:{detail.row.version} is archived.",
                fix=f"Restore it first: studio restore {detail.row.model}:{detail.row.version}",
            )
        plans = [*(self._named(name) for name in names), *(parse_plan(text, file) for file, text in own)]
        self._check(detail, plans)
        samples = await self._lab.real_samples(detail.manifest)
        if not plans and not detail.manifest.serve_only:
            plans = self._usual(detail, samples)
        return self._begin(detail, tuple(plans), again, samples)

    async def order_stale(self, reference: str = "") -> list[Job]:
        """Judge everything again whose figures are of another machine or runtime, of one version or of all: one job for
        each version. Raises NotFound.
        """
        if reference:
            return await self._stale_of(await self._keep.version_detail(*await self._version(reference)))
        jobs: list[Job] = []
        offset = 0
        while True:
            page = await self._keep.list_versions("", "model", False, False, offset, PAGE)
            for row in page.rows:
                if any(one.stale for one in row.variants):
                    jobs += await self._stale_of(await self._keep.version_detail(row.model, row.version))
            offset += len(page.rows)
            if not page.rows or offset >= page.total:
                return jobs

    def _usual(self, detail: VersionDetail, samples: int) -> list[Plan]:
        """What every arrival gets, and what there is beside that with figures of another machine, or refused for want
        of samples that have come since.
        """
        made = {one.variant: one.plan for one in detail.variants}
        # A recipe of the workspace may be another by now: what was made by the old one stays as it is.
        usual = [made.get(plan.name, plan) for plan in self._lab.plans_of(detail.manifest)[1:]]
        names = {plan.name for plan in usual}
        others = {one.variant: one for one in detail.variants if not one.is_reference and one.variant not in names}
        left = planned([one.plan for one in others.values()], others, self._lab.machine, samples=samples)
        return [*usual, *(turn.plan for turn in left)]

    async def _stale_of(self, detail: VersionDetail) -> list[Job]:
        here = self._lab.machine
        stale = [one for one in detail.variants if stale_words(one.machine, here)]
        plans = tuple(one.plan for one in stale if not one.is_reference)
        return self._begin(detail, plans) if stale else []

    def _begin(
        self, detail: VersionDetail, plans: tuple[Plan, ...], again: bool = False, samples: int = 0
    ) -> list[Job]:
        have = {variant.variant: variant for variant in detail.variants}
        turns = planned(self._lab.plans_of(detail.manifest, plans), have, self._lab.machine, again, samples)
        at_it = [] if again else self._at_it(detail.manifest, turns)
        if not turns or at_it:
            return at_it
        job = self._jobs.create_lab(detail.manifest, plans, again)
        self._jobs.submit(job.id)
        return [job]

    def _at_it(self, version: VersionManifest, turns: Sequence[Turn]) -> list[Job]:
        """The unfinished jobs that will have done all of this; none where something would be left."""
        if any(turn.before is not None and turn.before.refused_rows is not None for turn in turns):
            return []  # one that was begun before the samples came does not see them
        wanted = {turn.plan.name for turn in turns} - {REFERENCE_VARIANT}
        found: dict[str, Job] = {}
        for job in self._under_way(version):
            for plan in self._lab.plans_of(version, job.plans):
                found.setdefault(plan.name, job)
        if not found or not wanted <= set(found):
            return []
        return list({job.id: job for name, job in found.items() if name in (wanted or found)}.values())

    async def _version(self, reference: str) -> tuple[str, int]:
        """The version that a reference means, archived or not."""
        parsed = Reference.parse(reference)
        if parsed.version is not None:
            return parsed.model, parsed.version
        target = self._keep.resolve(reference)
        return target.model, target.version

    def _named(self, name: str) -> Plan:
        known = recipes()
        if name in known and name != REFERENCE_VARIANT:
            return plan_of(name)
        own = plans_in(self._lab.folder, known)
        if name in own.plans:
            return own.plans[name]
        broken = own.problems.get(f"{name}.toml")
        if broken is not None:
            raise broken
        names = ", ".join([*(one for one in known if one != REFERENCE_VARIANT), *own.plans])
        raise NotFound(
            f"There is no recipe '{name[:80]}'.", f"Known: {names}.", "See what each does: studio lab --list"
        )

    def _check(self, detail: VersionDetail, plans: Sequence[Plan]) -> None:
        version = detail.manifest
        if plans and version.serve_only:
            raise Conflict(f"No variants can be made of {version.model}:{version.version}.", version.serve_only)
        names = [plan.name for plan in plans]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidInput(f"Two recipes are called '{twice[0]}'.", "A variant takes the name of its recipe.")
        have = {variant.variant: variant for variant in detail.variants}
        for plan in plans:
            if plan.name in (REFERENCE_VARIANT, AUTO):
                raise InvalidInput(f"A recipe can not be called '{plan.name}'.", "That name has a meaning of its own.")
        refuse_others(f"{version.model}:{version.version}", plans, have)
        for job in self._under_way(version):
            for other in job.plans:
                if any(plan.name == other.name and plan.steps != other.steps for plan in plans):
                    raise Conflict(
                        f"A variant '{other.name}' of {job.stem} is being made in another way.",
                        f"It is {other.text}; a variant takes the name of its recipe.",
                        f"Give your recipe another name, or stop the other: studio jobs --cancel {job.id}",
                    )

    def _under_way(self, version: VersionManifest) -> list[Job]:
        """What the lab does for a version, or will."""
        return [job for job in self._jobs.of(version.model, version.version) if not job.resting]

"""An engine client for tests: the same calls, answered from plain values held here."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from studio.core import codec
from studio.core.comparison import Comparison, Plan
from studio.core.errors import Conflict, NotFound, StudioError
from studio.core.events import Event
from studio.core.histogram import Histogram
from studio.core.jobs import Job
from studio.core.journal import AliasMove, Entry, TrustedCode
from studio.core.metrics import Point, RequestLine, Sample, Tick
from studio.core.recipe import OptionEntry, RecipeEntry
from studio.core.tensors import TensorSpec
from studio.core.views import (
    CallExample,
    LabState,
    LogLine,
    ModelDetail,
    RouteDetail,
    ServerStatus,
    Status,
    TrustAnswer,
    VersionDetail,
    VersionPage,
    VersionRow,
)
from tests.tui.values import (
    FAILURE,
    MACHINE,
    START,
    by_hash,
    comparison,
    job,
    version_detail,
    version_row,
)


@dataclass
class StubClient:
    """`calls` records what was asked; `push` sends an event."""

    rows: list[VersionRow] = field(default_factory=list)
    job_list: list[Job] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    comparison_list: list[Comparison] = field(default_factory=list)
    log_lines: list[LogLine] = field(default_factory=list)
    url: str = "http://127.0.0.1:8080"
    refusal: StudioError | None = None
    paused: bool = False
    route_list: list[RouteDetail] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._seq = 0

    # what a test drives

    def push(self, kind: str, value: Any) -> None:
        self._seq += 1
        self._queue.put(Event(seq=self._seq, at=time.time(), kind=kind, data=codec.builtins(value)))

    def tick(self, target: str, requests: int, at: float | None = None, micros: int = 400) -> None:
        histogram = Histogram()
        histogram.add(micros, max(1, requests * 98 // 100))
        histogram.add(micros * 3, max(1, requests // 50))
        at = time.time() if at is None else at
        self.push(
            "metrics",
            Tick(at=at, samples=(Sample(target=target, at=at, requests=requests, histogram=histogram),), loaded=2),
        )
        line = RequestLine(at=at, target=target, protocol="oip-v2", status=200, latency_us=micros, rows=1)
        self.push("requests", {"lines": [line]})

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == name]

    # what the app calls

    def status(self) -> Status:
        return Status(
            workspace="/ws",
            inbox="/ws/inbox",
            pid=7,
            version="0.1.0",
            started=START,
            control_url="http://127.0.0.1:5",
            server=ServerStatus(state="ready", url=self.url, pid=8, loaded=2, memory=90_000_000),
            watching=True,
            models=len({row.model for row in self.rows}),
            versions=len(self.rows),
            jobs_active=0,
            jobs_failed=0,
            lab_paused=self.paused,
        )

    def versions(
        self,
        filter: str = "",
        sort: str = "model",
        descending: bool = False,
        archived: bool = False,
        offset: int = 0,
        limit: int = 100,
    ) -> VersionPage:
        self.calls.append(("versions", filter, sort, descending, archived, offset, limit))
        rows = [row for row in self.rows if filter in row.model and (archived or row.state != "archived")]
        return VersionPage(rows=tuple(rows[offset : offset + limit]), total=len(rows), offset=offset)

    def model(self, name: str) -> ModelDetail:
        return ModelDetail(
            model=name,
            primary="2-int8",
            aliases=dict(self.aliases),
            versions=tuple(row for row in self.rows if row.model == name),
            moves=(
                AliasMove(
                    model=name,
                    alias="production",
                    before="1-fp32",
                    after=self.aliases.get("production", ""),
                    why="",
                    actor="tui",
                    at="2026-11-21T04:10:00Z",
                ),
            ),
        )

    def _find(self, reference: str) -> int:
        for place, row in enumerate(self.rows):
            if f"{row.model}:{row.version}" == reference:
                return place
        raise NotFound(f"There is no {reference}.", "", "")

    def version(self, model: str, version: int) -> VersionDetail:
        return version_detail(self.rows[self._find(f"{model}:{version}")])

    def jobs(self) -> list[Job]:
        return list(self.job_list)

    def job_log(self, id: str) -> str:
        return f"log of {id}\nconverting …\ndone"

    def _job(self, id: str, state: str) -> Job:
        self.calls.append((state, id))
        old = next(one for one in self.job_list if one.id == id)
        new = replace(old, state=state, updated=old.updated + 1, problem=None)
        self.job_list = [new if one.id == id else one for one in self.job_list]
        return new

    def cancel_job(self, id: str) -> Job:
        return self._job(id, "cancelled")

    def retry_job(self, id: str) -> Job:
        return self._job(id, "queued")

    def trust(self, *sha256: str) -> TrustAnswer:
        self.calls.append(("trust", *sha256))
        asked = [one for one in self.job_list if one.problem and one.state == "waiting"]
        code = {file.sha256: file for one in asked for file in one.problem.code_files if file.sha256 in sha256}
        on = [
            one for one in asked if one.problem.code_files and set(map(by_hash, one.problem.code_files)) <= set(sha256)
        ]
        return TrustAnswer(
            code=tuple(
                TrustedCode(sha256=key, name=file.name, imports="", actor="tui", at="2026-11-21T04:10:00Z")
                for key, file in code.items()
            ),
            jobs=tuple(self._job(one.id, "queued") for one in on),
        )

    def describe_inputs(self, id: str, inputs: Sequence[TensorSpec]) -> str:
        self.calls.append(("describe_inputs", id, tuple(inputs)))
        if self.refusal:
            raise self.refusal
        return "/ws/inbox/net.toml"

    def add(self, path: str) -> tuple[str, ...]:
        """The model file of a sample becomes a version at once, as a job that has registered it."""
        self.calls.append(("add", path))
        if not path.endswith((".npz", ".toml")):
            number = len(self.job_list) + 1
            self.job_list.append(job(number, stem=path.rpartition("/")[2].partition(".")[0]))
        return (path,)

    def move_alias(self, model: str, alias: str, target: str, why: str = "") -> AliasMove:
        self.calls.append(("move_alias", model, alias, target, why))
        before = self.aliases.get(alias, "")
        self.aliases[alias] = target
        return AliasMove(
            model=model, alias=alias, before=before, after=target, why=why, actor="tui", at="2026-11-21T04:10:00Z"
        )

    def rollback(self, model: str, alias: str = "production") -> AliasMove:
        self.calls.append(("rollback", model, alias))
        return AliasMove(
            model=model, alias=alias, before="2-int8", after="1-fp32", why="", actor="tui", at="2026-11-21T04:10:00Z"
        )

    def routes(self) -> list[RouteDetail]:
        return list(self.route_list)

    def undo(self) -> AliasMove:
        self.calls.append(("undo",))
        return AliasMove(
            model="digits",
            alias="production",
            before="2-int8",
            after="1-fp32",
            why="",
            actor="tui",
            at="2026-11-21T04:10:00Z",
        )

    def archive(self, reference: str) -> VersionRow:
        self.calls.append(("archive", reference))
        place = self._find(reference)
        if self.rows[place].aliases:
            raise Conflict(f"{reference} serves.", "production points at it.", "Move production first (p).")
        self.rows[place] = replace(self.rows[place], state="archived")
        return self.rows[place]

    def restore(self, reference: str) -> VersionRow:
        self.calls.append(("restore", reference))
        place = self._find(reference)
        self.rows[place] = replace(self.rows[place], state="ready")
        return self.rows[place]

    def purge(self, reference: str, confirm: str) -> int:
        self.calls.append(("purge", reference, confirm))
        return self.rows.pop(self._find(reference)).size

    def compare(self, plan: Plan) -> Comparison:
        self.calls.append(("compare", plan))
        one = comparison(plan, "done", len(self.comparison_list) + 1)
        self.comparison_list.append(one)
        return one

    def comparisons(self) -> list[Comparison]:
        return list(self.comparison_list)

    def comparison(self, id: str) -> Comparison:
        return next(one for one in self.comparison_list if one.id == id)

    def cancel_comparison(self, id: str) -> Comparison:
        self.calls.append(("cancel_comparison", id))
        return self.comparison(id)

    def metrics(self, target: str, since: float, until: float, step: float) -> tuple[Point, ...]:
        return ()

    def call(self, reference: str) -> CallExample:
        url = f"{self.url}/v2/models/{reference}/infer"
        body = '{"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0, 3, 9]}]}'
        return CallExample(
            reference=reference,
            url=url,
            body=body,
            curl=f"curl -s {url} \\\n  -d '{body}'",
            python=f"import requests\nprint(requests.post({url!r}, data={body!r}).json())",
            javascript=f"const answer = await fetch('{url}', {{method: 'POST', body: `{body}`}});",
        )

    def logs(self) -> list[LogLine]:
        return list(self.log_lines)

    def journal(self) -> list[Entry]:
        return []

    def netron(self, reference: str) -> str:
        self.calls.append(("netron", reference))
        return "http://127.0.0.1:9999"

    def lab(self) -> LabState:
        entries = [
            RecipeEntry(name="fp16", title="16-bit floats", origin="built in"),
            RecipeEntry(name="int8", title="8-bit weights, dynamic", origin="built in"),
            RecipeEntry(
                name="int8-static",
                title="8-bit weights and activations, static",
                origin="built in",
                options=(OptionEntry(name="rows", default=128, help="rows to learn ranges from", allowed="a number"),),
            ),
            RecipeEntry(name="int4", title="4-bit weights in blocks", origin="built in"),
            RecipeEntry(name="small", title="", origin="small.toml", steps="sparse (amount 0.2), then int8"),
            RecipeEntry(name="broken", title="", origin="broken.toml", problem="broken.toml: it has no steps."),
        ]
        return LabState(
            paused=self.paused,
            jobs=(),
            recipes=tuple(entries),
            defaults=("fp16", "int8", "int8-static"),
            folder="/ws/recipes",
            machine=MACHINE,
        )

    def make_variants(
        self, reference: str, recipes: Sequence[str] = (), own: Sequence[str] = (), again: bool = False
    ) -> list[Job]:
        self.calls.append(("make_variants", reference, tuple(recipes), again))
        return [job(9, "queued", 6)]

    def pause_lab(self) -> LabState:
        return self._hold(True)

    def resume_lab(self) -> LabState:
        return self._hold(False)

    def _hold(self, on: bool) -> LabState:
        self.calls.append(("pause_lab" if on else "resume_lab",))
        self.paused = on
        self.push("status", self.status())
        return self.lab()

    def load(self, reference: str, seconds: float, clients: int) -> Comparison:
        self.calls.append(("load", reference, seconds, clients))
        return comparison(Plan(references=(reference,), seconds=seconds, clients=clients), "running", 9)

    def shutdown(self) -> None:
        self.calls.append(("shutdown",))

    def events(self, since: int = 0, stop: threading.Event | None = None) -> Iterator[Event]:
        while stop is None or not stop.is_set():
            try:
                event = self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
            if event is not None:
                yield event


def filled(versions: int = 3) -> StubClient:
    """Two models, jobs in every state, a finished comparison, some log."""
    aliases = {"production": "2-int8", "candidate": "3-int8"}
    rows = [version_row("cancer", 1, {}, True)]
    rows += [version_row("digits", n, aliases, n == versions) for n in range(1, versions + 1)]
    jobs = [
        job(5, "running", 6, "resnet50", progress=0.4),
        job(4, "queued", 1, "bert-tiny"),
        job(3, "failed", 2, "old", FAILURE),
        job(2),
        job(1, stem="cancer"),
    ]
    lines = [
        LogLine(at=START, source="engine", level="info", text="Engine 0.1.0 is up for /ws."),
        LogLine(
            at=START + 1, source="job", level="warning", text="no labels: accuracy can not be claimed", subject="j0002"
        ),
        LogLine(at=START + 2, source="audit", level="info", text="production 1-fp32 → 2-int8 by tui", subject="digits"),
        LogLine(at=START + 3, source="server", level="error", text="digits:9 does not exist", subject="digits"),
    ]
    return StubClient(rows=rows, job_list=jobs, aliases=aliases, log_lines=lines)

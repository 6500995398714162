"""The client: every call of the control API as a typed method."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from studio.client.environments import EnvironmentCalls
from studio.client.lab import LabCalls
from studio.client.recordings import RecordingCalls
from studio.client.routes import RouteCalls
from studio.client.stream import listen
from studio.client.transport import Address, Locate, Transport
from studio.core.comparison import Comparison, Plan
from studio.core.errors import StepFailed, Unavailable
from studio.core.events import Event
from studio.core.jobs import Job
from studio.core.journal import AliasMove, Entry, TrustedCode
from studio.core.metrics import Point
from studio.core.names import PRODUCTION
from studio.core.tensors import TensorSpec
from studio.core.views import (
    CallExample,
    LogLine,
    ModelDetail,
    SettingsTemplate,
    Status,
    TrustAnswer,
    VersionDetail,
    VersionPage,
    VersionRow,
)

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
TIMEOUT_SECONDS = 120.0
CONVERSION_SECONDS = 3600.0  # the engine has a clock of its own for that
POLL_SECONDS = 0.2
COMPARED = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What a reference stands for now; `target` is the full reference, `digits:3-int8`."""

    model: str
    version: int
    variant: str
    target: str


@dataclass(frozen=True)
class _Files:
    files: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    file: str


@dataclass(frozen=True)
class _Text:
    text: str


@dataclass(frozen=True)
class _Freed:
    freed: int


@dataclass(frozen=True)
class _Url:
    url: str


@dataclass(frozen=True)
class _Points:
    points: tuple[Point, ...]


def _part(text: str) -> str:
    return quote(text, safe=":")


class Client(EnvironmentCalls, LabCalls, RecordingCalls, RouteCalls):
    """A connection to an engine. Synchronous, and safe to use from several threads.

    `actor` is what the journal says of who asked. Every method raises the StudioError that the engine answers with, and
    Unavailable when no engine answers. `locate` finds an engine that was started again; `connect` sets it.
    """

    def __init__(
        self,
        url: str,
        token: str,
        actor: str = "sdk",
        *,
        timeout: float = TIMEOUT_SECONDS,
        locate: Locate | None = None,
    ) -> None:
        self.actor = actor
        self._transport = Transport(Address(url.rstrip("/"), token), timeout, locate)

    @property
    def url(self) -> str:
        """Where the control API answers."""
        return self._transport.address.url

    def close(self) -> None:
        """Close the idle connections. The client stays usable."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _act(self, path: str, kind: type[T], **fields: Any) -> T:
        return self._transport.post(path, fields | {"actor": self.actor}, kind)

    # What there is

    def status(self) -> Status:
        """The engine at a glance."""
        return self._transport.get("/api/status", Status)

    def versions(
        self,
        filter: str = "",
        sort: str = "model",
        descending: bool = False,
        archived: bool = False,
        offset: int = 0,
        limit: int = 100,
    ) -> VersionPage:
        """A page of versions. `sort`: model, created, size, p50 or fidelity; `limit` at most 1000."""
        query: dict[str, str | int | float] = {
            "filter": filter,
            "sort": sort,
            "descending": str(descending).lower(),
            "archived": str(archived).lower(),
            "offset": offset,
            "limit": limit,
        }
        return self._transport.get("/api/versions", VersionPage, query)

    def model(self, name: str) -> ModelDetail:
        """One model with its versions, aliases and how they moved."""
        return self._transport.get(f"/api/models/{_part(name)}", ModelDetail)

    def version(self, model: str, version: int) -> VersionDetail:
        """Everything about one version."""
        return self._transport.get(f"/api/versions/{_part(model)}/{version}", VersionDetail)

    def resolve(self, reference: str) -> Resolution:
        """What a reference stands for now."""
        return self._transport.get(f"/api/resolve/{_part(reference)}", Resolution)

    def journal(self, limit: int = 200) -> tuple[Entry, ...]:
        """The audit log, newest first."""
        return self._transport.get("/api/journal", tuple[Entry, ...], {"limit": limit})

    def logs(self, source: str = "", level: str = "", limit: int = 500) -> tuple[LogLine, ...]:
        """Log lines of at least `level`, oldest first."""
        return self._transport.get("/api/logs", tuple[LogLine, ...], {"source": source, "level": level, "limit": limit})

    def metrics(self, target: str = "", since: float = 0.0, until: float = 0.0, step: float = 1.0) -> tuple[Point, ...]:
        """A time series. Times in Unix seconds, `until` 0 = now, `step` in whole seconds; target '' = all together."""
        query: dict[str, str | int | float] = {
            "target": target,
            "since": since,
            "until": until,
            "step": max(1, round(step)),
        }
        return self._transport.get("/api/metrics", _Points, query).points

    # Arrivals and jobs

    def add(self, path: str | Path, name: str | None = None) -> tuple[str, ...]:
        """Copy a file or folder into the inbox; `name` renames its stem. Gives the paths of the copies."""
        absolute = str(Path(path).expanduser().resolve())
        return self._transport.post("/api/add", {"path": absolute, "name": name}, _Files).files

    def template(self, path: str | Path, target: str | Path = "", force: bool = False) -> SettingsTemplate:
        """A settings file for a model that lies anywhere on this machine, from what it was seen to be.

        It is not written: `path` of the answer says where it belongs, beside the model or at `target`. Takes as long as
        a conversion. Raises Conflict when a file is there already and not `force`.
        """
        body = {
            "path": str(Path(path).expanduser().absolute()),
            "target": str(Path(target).expanduser().absolute()) if target else "",
            "force": force,
        }
        patient = Transport(self._transport.address, CONVERSION_SECONDS)
        try:
            return patient.post("/api/template", body, SettingsTemplate)
        finally:
            patient.close()

    def jobs(self, limit: int = 200) -> tuple[Job, ...]:
        """Jobs, newest first."""
        return self._transport.get("/api/jobs", tuple[Job, ...], {"limit": limit})

    def job(self, id: str) -> Job:
        return self._transport.get(f"/api/jobs/{_part(id)}", Job)

    def job_log(self, id: str) -> str:
        """What the workers of a job wrote."""
        return self._transport.get(f"/api/jobs/{_part(id)}/log", _Text).text

    def cancel_job(self, id: str) -> Job:
        return self._transport.post(f"/api/jobs/{_part(id)}/cancel", {}, Job)

    def retry_job(self, id: str) -> Job:
        return self._transport.post(f"/api/jobs/{_part(id)}/retry", {}, Job)

    def wait_job(
        self,
        id: str,
        on_update: Callable[[Job], None] | None = None,
        *,
        until: Callable[[Job], bool] = lambda job: job.resting,
        timeout: float | None = None,
    ) -> Job:
        """Wait until a job has finished or waits for the user, or until `until` says so.

        Raises Unavailable after `timeout` seconds.
        """
        return wait_for(lambda: self.job(id), until, on_update, timeout)

    # What waiting jobs ask

    def trust(self, *sha256: str) -> TrustAnswer:
        """Say yes to running the code in files of these hashes, for this content and for good; their jobs go on.

        Only what a waiting job asks about can be trusted: `job.problem.code_files` has each file's name and SHA-256,
        and what it would import or call. Saying no is `cancel_job`. Raises NotFound for a hash that no job asks about.
        """
        return self._act("/api/trust", TrustAnswer, sha256=list(sha256))

    def distrust(self, sha256: str) -> TrustedCode:
        """Take a yes back: the next file of that content asks again. Versions that were made stay. Raises NotFound."""
        return self._act("/api/distrust", TrustedCode, sha256=sha256)

    def trusted(self) -> tuple[TrustedCode, ...]:
        """The code that may run, oldest yes first."""
        return self._transport.get("/api/trust", tuple[TrustedCode, ...])

    def describe_inputs(self, id: str, inputs: Sequence[TensorSpec]) -> str:
        """Tell a job that needs settings what its model's inputs are; gives the settings file that now says so.

        The file lies in the inbox, beside the model; a new job takes the place of this one. Raises Conflict when the
        job asks nothing of the kind, or the file says something else; InvalidInput for what is no shape or datatype.
        """
        return self._transport.post(f"/api/jobs/{_part(id)}/inputs", {"inputs": list(inputs)}, _File).file

    # Aliases

    def move_alias(self, model: str, alias: str, target: str, why: str = "") -> AliasMove:
        """Point an alias at a version (`3`), a variant (`3-int8`) or what another alias names."""
        return self._act("/api/aliases", AliasMove, model=model, alias=alias, target=target, why=why)

    def remove_alias(self, model: str, alias: str, why: str = "") -> AliasMove:
        return self._act("/api/aliases", AliasMove, model=model, alias=alias, target="", why=why)

    def rollback(self, model: str, alias: str = PRODUCTION, why: str = "") -> AliasMove:
        """Point an alias back at what it named before."""
        return self._act("/api/rollback", AliasMove, model=model, alias=alias, why=why)

    # Removal

    def archive(self, reference: str) -> VersionRow:
        """Take a version out of service; `restore` brings it back."""
        return self._act("/api/archive", VersionRow, reference=reference)

    def restore(self, reference: str) -> VersionRow:
        return self._act("/api/restore", VersionRow, reference=reference)

    def purge(self, reference: str, confirm: str) -> int:
        """Delete an archived version for good; `confirm` repeats the reference. Gives the bytes freed."""
        return self._act("/api/purge", _Freed, reference=reference, confirm=confirm).freed

    # Measurements

    def compare(self, plan: Plan) -> Comparison:
        """Start a comparison."""
        return self._transport.post("/api/comparisons", plan, Comparison)

    def load(self, reference: str, seconds: float = 10.0, clients: int = 4) -> Comparison:
        """Start a load test: a comparison with one arm."""
        body = {"reference": reference, "seconds": seconds, "clients": clients}
        return self._transport.post("/api/load", body, Comparison)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Comparisons, newest first."""
        return self._transport.get("/api/comparisons", tuple[Comparison, ...])

    def comparison(self, id: str) -> Comparison:
        return self._transport.get(f"/api/comparisons/{_part(id)}", Comparison)

    def cancel_comparison(self, id: str) -> Comparison:
        return self._transport.post(f"/api/comparisons/{_part(id)}/cancel", {}, Comparison)

    def wait_comparison(
        self, id: str, on_update: Callable[[Comparison], None] | None = None, *, timeout: float | None = None
    ) -> Comparison:
        """Wait until a comparison or load test has ended. Raises Unavailable after `timeout` seconds."""
        return wait_for(lambda: self.comparison(id), lambda one: one.state in COMPARED, on_update, timeout)

    # The endpoint

    def call(self, reference: str) -> CallExample:
        """A request for a reference that runs as shown, made from the version's own samples."""
        return self._transport.get(f"/api/call/{_part(reference)}", CallExample)

    def predict(self, reference: str, inputs: Mapping[str, Any], key: str = "") -> dict[str, np.ndarray[Any, Any]]:
        """Ask the endpoint. `inputs` maps input names to array-likes, rows first; so does the answer.

        Lists and Python numbers take the datatype that the model declares. Where a split shares requests out, those
        with the same `key` (of printable ASCII) stay with one version. Raises InvalidInput, NotFound, Unavailable.
        """
        from studio.client.predict import predict

        return predict(self.status().server.url, reference, inputs, key)

    def netron(self, reference: str) -> str:
        """Show a graph in Netron on loopback; the URL to open."""
        return self._act("/api/netron", _Url, reference=reference).url

    # The engine

    def events(self, since: int = 0, stop: threading.Event | None = None, *, patience: float = 3.0) -> Iterator[Event]:
        """What happens, as it happens; first what is still kept of what came after `since`.

        A stream that breaks off is taken up again where it was; Unavailable is raised when that has not worked for
        `patience` seconds. Setting `stop` ends the iteration at once. `seq` starts anew when the engine does.
        """
        return listen(self._transport, since, stop, patience)

    def shutdown(self) -> None:
        """Ask the engine to drain and stop."""
        self._transport.post("/api/shutdown", {}, dict[str, object])


def wait_for(
    fetch: Callable[[], T],
    done: Callable[[T], bool],
    on_update: Callable[[T], None] | None = None,
    timeout: float | None = None,
) -> T:
    """Ask again and again until `done`; `on_update` gets every value that differs from the one before.

    Raises Unavailable after `timeout` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    before: T | None = None
    while True:
        value = fetch()
        if on_update and value != before:
            on_update(value)
        if done(value):
            return value
        before = value
        if deadline is not None and time.monotonic() >= deadline:
            raise Unavailable(f"It has not ended within {timeout:g} s.", fix="It goes on; look with: studio jobs")
        time.sleep(POLL_SECONDS)


def raise_failure(outcome: Job | Comparison) -> None:
    """Raise what a failed job or comparison failed with, or what a waiting job asks; nothing if all is well."""
    from studio.core.errors import Cancelled, from_problem

    if outcome.state == "cancelled":
        problem = getattr(outcome, "problem", None)
        raise from_problem(problem) if problem is not None else Cancelled("It was cancelled.")
    if outcome.state in ("failed", "waiting"):
        if outcome.problem is None:
            raise StepFailed("It failed without saying why.", fix="See: studio logs")
        raise from_problem(outcome.problem)

"""What the control API answers: the engine's state, shaped for the faces that show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from studio.core.errors import Problem
from studio.core.jobs import Job
from studio.core.journal import AliasMove, Entry, RouteChange, TrustedCode
from studio.core.manifest import InputsKind, Machine, VariantManifest, VersionManifest
from studio.core.metrics import Point, ShadowFigures
from studio.core.names import REFERENCE_VARIANT
from studio.core.recipe import RecipeEntry
from studio.core.recording import Recording
from studio.core.route import Route

Level = Literal["debug", "info", "warning", "error"]
LogSource = Literal["engine", "job", "requests", "audit", "server"]


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """The server child. `state`: ready to answer, starting, stopped or crashed and restarting.

    `pids` of all its processes, `pid` of the first.
    """

    state: Literal["starting", "ready", "draining", "stopped"]
    url: str
    pid: int | None = None
    pids: tuple[int, ...] = ()
    loaded: int = 0
    memory: int = 0
    restarts: int = 0


@dataclass(frozen=True, kw_only=True)
class Status:
    """The engine at a glance. Sizes in bytes, `started` in Unix seconds. `jobs_waiting`: for a word of the user.

    `recording`: the models whose requests are being kept.
    """

    workspace: str
    inbox: str
    pid: int
    version: str
    started: float
    control_url: str
    server: ServerStatus
    watching: bool
    models: int
    versions: int
    jobs_active: int
    jobs_failed: int
    jobs_waiting: int = 0
    lab_paused: bool = False
    notices: tuple[str, ...] = ()
    recording: tuple[Recording, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """One variant in a list. `p50` in ms at batch 1; `fidelity` = worst cosine against the reference.

    `stale`: why its figures do not hold on this machine, empty where they do. `front`: no other passing variant beats
    it in speed, size and fidelity. `threads` to serve it with, as measured. `inputs`: what it was judged on.
    """

    variant: str
    outcome: str
    sentence: str
    size: int
    p50: float | None = None
    throughput: float | None = None
    peak_memory: int | None = None
    fidelity: float | None = None
    accuracy: float | None = None
    speedup: float | None = None
    aliases: tuple[str, ...] = ()
    stale: str = ""
    front: bool = False
    threads: int | None = None
    inputs: InputsKind | None = None


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """One version in a list, with what its reference variant measured. `state`: what a user may do with it.

    `auto`: the variant that was chosen by its figures; `choice` is the sentence that explains it.
    """

    model: str
    version: int
    state: Literal["serving", "ready", "archived"]
    created: str
    format: str
    size: int
    p50: float | None
    accuracy: float | None
    fidelity: float | None
    aliases: tuple[str, ...]
    variants: tuple[VariantRow, ...]
    latest: bool
    title: str = ""
    tags: tuple[str, ...] = ()
    auto: str = REFERENCE_VARIANT
    choice: str = ""


@dataclass(frozen=True, kw_only=True)
class VersionPage:
    """A page of versions, and how many there are in all under the same filter."""

    rows: tuple[VersionRow, ...]
    total: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class VersionDetail:
    """Everything about one version."""

    row: VersionRow
    manifest: VersionManifest
    variants: tuple[VariantManifest, ...]
    history: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class ModelDetail:
    """One model: where its names point, its versions, how its aliases moved and its route changed (newest first)."""

    model: str
    primary: str
    aliases: dict[str, str]
    versions: tuple[VersionRow, ...]
    moves: tuple[AliasMove, ...]
    route: Route = field(default_factory=Route)
    route_changes: tuple[RouteChange, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One part of a split: `share` (0 to 1) of the requests goes to `target`, a full reference."""

    name: str
    target: str
    share: float


@dataclass(frozen=True, kw_only=True)
class RouteDetail:
    """How requests for a model's bare name are spread now. `arms` has the primary alone where nothing is split.

    `shadow` is a full reference, '' = none, `shadow_name` what the user called it; `share` of the requests is copied to
    it. `figures` are what was seen of shadows by pair of versions since the engine started, the newest pair first.
    """

    model: str
    arms: tuple[ArmRow, ...]
    shadow: str = ""
    shadow_name: str = ""
    share: float = 1.0
    figures: tuple[ShadowFigures, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabState:
    """The lab: whether it is `paused`, the `jobs` that make variants now or wait to, and all recipes.

    `defaults` names those that every arrival gets, unless its settings say otherwise; `folder` is where the user's own
    recipes lie.
    """

    paused: bool
    jobs: tuple[str, ...]
    recipes: tuple[RecipeEntry, ...]
    defaults: tuple[str, ...]
    folder: str
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of the merged log."""

    at: float
    source: LogSource
    level: Level
    text: str
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The charted series of a target (a full reference), or of all together (empty)."""

    target: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class CallExample:
    """A request for a reference that runs as shown: `body` is OIP v2 JSON."""

    reference: str
    url: str
    body: str
    curl: str
    python: str
    javascript: str


@dataclass(frozen=True, kw_only=True)
class SettingsTemplate:
    """A settings file for a model: its `text`, and the `path` where it belongs. `detail`: the format in a few words.

    `problem`: what the user has to answer before the model can be converted; the text has that question in it.
    """

    path: str
    text: str
    format: str
    detail: str
    problem: Problem | None = None


@dataclass(frozen=True, kw_only=True)
class TrustAnswer:
    """What a yes led to: the `code` that may run now, and the `jobs` that go on because of it."""

    code: tuple[TrustedCode, ...]
    jobs: tuple[Job, ...]


@dataclass(frozen=True, kw_only=True)
class EnvironmentRow:
    """A converter environment. `state` included: Studio has all of it itself. `download`, `installed`: about how many
    bytes it takes; `size`: what it takes now, with the `outdated` ones of earlier versions. `problem`: of the last try.
    """

    name: str
    title: str
    state: Literal["included", "ready", "making", "failed", "absent"]
    download: int
    installed: int
    size: int = 0
    folder: str = ""
    outdated: int = 0
    progress: float | None = None
    detail: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, kw_only=True)
class ApiError:
    """The body of every answer that is not a success."""

    error: Problem

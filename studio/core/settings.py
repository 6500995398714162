"""Settings of a workspace: the shape of `studio.toml`. Reading the file is `studio.store.workspace`'s work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """`port` 0 takes any free port; `grpc_port` 0 serves no gRPC; `tfs_port` and `tfs_grpc_port` are second ports for
    the same, where clients of TensorFlow Serving look, 0 = none. `workers` are server processes on the one port, and
    `threads` ONNX Runtime's intra-op threads a run, 0 = 1, or what was measured to be best for one that runs alone.
    `run_threads` is the number of runs at the same time, 0 = one a core. It, `queue`, `memory_bytes` and `cache_bytes`
    are shared out over the processes.

    `timeout_seconds`: what a request without a time-out of its own has, waiting and running; 0 = any. `model_runs`:
    runs of one model at a time, 0 = as many as there are run threads. `memory_bytes` is what loaded models may take
    together before idle ones are unloaded, 0 = half of the machine's; a model that nothing pins is unloaded after
    `idle_seconds` without a request, 0 = never. `cache_bytes` of answers are kept for requests that come again, 0 =
    none. `access_log`: a file for a JSON line for each request, relative to the workspace; empty = none.
    `artefact_bytes`: size of the cache of optimised graphs, 0 = none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    run_threads: int = 0
    threads: int = 0
    max_body_bytes: int = 64 * 1024 * 1024
    queue: int = 1024
    timeout_seconds: float = 60.0
    model_runs: int = 0
    memory_bytes: int = 0
    idle_seconds: float = 900.0
    cache_bytes: int = 0
    artefact_bytes: int = 8 * 1024**3
    access_log: str = ""
    grpc_port: int = 0
    tfs_port: int = 0
    tfs_grpc_port: int = 0

    def threads_of(self, measured: int = 1) -> int:
        """Threads of a run that has the machine for itself, of a variant that was found to be fastest with `measured`.

        Several processes share the cores among them as it is.
        """
        return self.threads or (measured if self.workers == 1 else 1)


@dataclass(frozen=True, kw_only=True)
class InboxSettings:
    """An arrival is settled `settle_seconds` after its last change; what does not parse then gets `patience_seconds`.

    The folder is also listed every `rescan_seconds`, for file systems that report no changes.
    """

    settle_seconds: float = 0.4
    patience_seconds: float = 20.0
    rescan_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Limits of every worker process, and how many may run at once.

    `intake_seconds` is the clock of one arrival's conversion and check: a model that never ends must not keep others
    waiting for as long as a large variant may take. `first_run_seconds` is that of any one load or run of it; 0 = none.
    `warm`: frameworks that stay imported for the next arrival, for `warm_seconds` after the last; 0 = none.
    `environments`: whether an arrival may have a converter environment made, which downloads a framework once; "never"
    leaves that to `studio environments make`. `lab_seconds`: what making and measuring the variants of one arrival may
    take; what is left over waits for `studio lab`; 0 = no end. `measure_seconds`: of that, for the times of one
    variant beside its reference. `auto`: what the variant `auto` is chosen by.
    """

    parallel: int = 2
    memory_bytes: int = 8 * 1024**3
    file_bytes: int = 8 * 1024**3
    cpu_seconds: int = 1800
    wall_seconds: float = 1800.0
    intake_seconds: float = 600.0
    first_run_seconds: float = 120.0
    warm: int = 2
    warm_seconds: float = 300.0
    recipes: tuple[str, ...] = ("fp16", "int8", "int8-static")
    lab_seconds: float = 900.0
    measure_seconds: float = 4.0
    auto: Literal["speed", "size"] = "speed"
    environments: Literal["auto", "never"] = "auto"


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Thresholds of the default gates. A variant must also be smaller or faster by `min_gain` to be worth offering;
    less than `min_gain_bytes` saved is none: a disk keeps whole blocks.

    One that is smaller may be slower by a factor of at most `max_slowdown`. `max_f1_drop`, `max_auc_drop` and
    `max_rmse_rise` (a share of the reference's error) count where there are labels, `min_rank_correlation` of
    embeddings.
    """

    min_cosine: float = 0.99
    min_top1_agreement: float = 0.98
    max_accuracy_drop: float = 0.01
    parity_max_rel: float = 1e-3
    min_correlation: float = 0.9
    min_rank_correlation: float = 0.98
    max_f1_drop: float = 0.02
    max_auc_drop: float = 0.01
    max_rmse_rise: float = 0.05
    min_gain: float = 0.05
    min_gain_bytes: float = 4096.0
    max_slowdown: float = 1.5


GATE_RANGES: dict[str, tuple[float, float | None]] = {
    "min_cosine": (-1, 1),
    "min_top1_agreement": (0, 1),
    "max_accuracy_drop": (0, 1),
    "parity_max_rel": (0, None),
    "min_correlation": (-1, 1),
    "min_rank_correlation": (-1, 1),
    "max_f1_drop": (0, 1),
    "max_auc_drop": (0, 1),
    "max_rmse_rise": (0, None),
    "min_gain": (0, 1),
    "min_gain_bytes": (0, None),
    "max_slowdown": (1, None),
}
"""Lowest and highest sensible threshold; None = no bound."""


@dataclass(frozen=True, kw_only=True)
class HistorySettings:
    """How long the time series is kept at each resolution, in hours."""

    seconds_hours: float = 1.0
    minutes_hours: float = 48.0
    hours_hours: float = 24.0 * 90


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole of `studio.toml`; every key may be left out."""

    control_port: int = 0
    serving: ServingSettings = field(default_factory=ServingSettings)
    inbox: InboxSettings = field(default_factory=InboxSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    history: HistorySettings = field(default_factory=HistorySettings)

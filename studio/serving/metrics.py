"""`/metrics` in Prometheus' text format: our own histograms by phase, and Triton's `nv_inference_*` names.

Sources: Prometheus, "Text-based format" 0.0.4; Triton, docs/user_guide/metrics.md. Labels are those of the routing
table alone, so what a client sends can not make series grow; the series of a version go with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from studio.core.metrics import ShadowFigures
from studio.core.routing import Target
from studio.serving.peers import Figures
from studio.serving.service import CLIENT_CLOSED, Service
from studio.serving.statistics import BOUNDS_NS, PHASES, Buckets, Totals

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_REASONS = {503: "REJECTED", CLIENT_CLOSED: "CANCELED", 500: "BACKEND"}


def exposition(service: Service, figures: Figures) -> bytes:
    """All series, as text; `figures` are those of all processes of the server."""
    totals = figures.totals
    used = [(target, totals[target.name]) for target in service.router.targets() if target.name in totals]
    lines = [
        *_triton(used),
        *_histograms(used),
        *_requests(used),
        *_shadows(service, figures),
        *_server(service, figures),
    ]
    return ("\n".join(lines) + "\n").encode()


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"


def _text(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(target: Target, **more: str) -> str:
    pairs = {"model": target.model, "version": str(target.version), "variant": target.variant, **more}
    return ",".join(f'{name}="{_text(value)}"' for name, value in pairs.items())


def _triton(used: list[tuple[Target, Totals]]) -> Iterator[str]:
    counters: tuple[tuple[str, str, Callable[[Totals], int]], ...] = (
        ("nv_inference_request_success", "Number of successful inference requests", lambda t: t.success.count),
        ("nv_inference_count", "Number of inferences performed, batches counted by row", lambda t: t.rows),
        ("nv_inference_exec_count", "Number of model executions performed", lambda t: t.executions),
        (
            "nv_inference_request_duration_us",
            "Cumulative inference request duration in microseconds",
            lambda t: t.success.ns // 1000,
        ),
        (
            "nv_inference_queue_duration_us",
            "Cumulative inference queuing duration in microseconds",
            lambda t: t.queue.ns // 1000,
        ),
        (
            "nv_inference_compute_input_duration_us",
            "Cumulative compute input duration in microseconds",
            lambda t: t.compute_input.ns // 1000,
        ),
        (
            "nv_inference_compute_infer_duration_us",
            "Cumulative compute inference duration in microseconds",
            lambda t: t.compute_infer.ns // 1000,
        ),
        (
            "nv_inference_compute_output_duration_us",
            "Cumulative compute output duration in microseconds",
            lambda t: t.compute_output.ns // 1000,
        ),
    )
    for name, words, value in counters:
        yield from _head(name, "counter", words)
        for target, totals in used:
            yield f"{name}{{{_labels(target)}}} {value(totals)}"
    yield from _head("nv_inference_request_failure", "counter", "Number of failed inference requests")
    for target, totals in used:
        failed: dict[str, int] = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0)
        for status, count in (item for counts in totals.answered.values() for item in counts.items()):
            if status != 200:
                failed[_REASONS.get(status, "OTHER")] += count
        for reason, count in failed.items():
            yield f"nv_inference_request_failure{{{_labels(target, reason=reason)}}} {count}"


def _histograms(used: list[tuple[Target, Totals]]) -> Iterator[str]:
    name = "studio_inference_duration_seconds"
    yield from _head(name, "histogram", "Time of answered requests by phase; phase=total is the whole request")
    for target, totals in used:
        for phase, buckets in zip(PHASES, totals.phases, strict=True):
            yield from _histogram(name, _labels(target, phase=phase), buckets)


def _histogram(name: str, labels: str, buckets: Buckets) -> Iterator[str]:
    seen = 0
    for bound, count in zip(BOUNDS_NS, buckets.counts[:-1], strict=True):
        seen += count
        yield f'{name}_bucket{{{labels},le="{bound / 1e9:g}"}} {seen}'
    seen += buckets.counts[-1]
    yield f'{name}_bucket{{{labels},le="+Inf"}} {seen}'
    yield f"{name}_sum{{{labels}}} {buckets.ns / 1e9:.9g}"
    yield f"{name}_count{{{labels}}} {seen}"


def _requests(used: list[tuple[Target, Totals]]) -> Iterator[str]:
    name = "studio_requests_total"
    yield from _head(name, "counter", "Requests by protocol and HTTP status; 499 = the client went away")
    for target, totals in used:
        for protocol, counts in sorted(totals.answered.items()):
            for status, count in sorted(counts.items()):
                yield f"{name}{{{_labels(target, protocol=protocol, status=str(status))}}} {count}"


def _shadows(service: Service, counted: Figures) -> Iterator[str]:
    """Copies of answered requests that ran on a shadow, by who answered (`version`, `variant`) and the shadow's key."""
    targets = {target.name: target for target in service.router.targets()}
    seen = [
        (_labels(targets[figures.target], shadow=targets[figures.shadow].key), figures)
        for figures in counted.shadows
        if figures.target in targets and figures.shadow in targets
    ]
    name = "studio_shadow_requests_total"
    yield from _head(name, "counter", "Copies of answered requests for a shadow: compared, dropped or failed")
    for labels, figures in seen:
        for result in ("compared", "dropped", "failed"):
            yield f'{name}{{{labels},result="{result}"}} {getattr(figures, result)}'
    gauges: tuple[tuple[str, str, Callable[[ShadowFigures], float | None]], ...] = (
        (
            "studio_shadow_cosine_mean",
            "Cosine between what was answered and what the shadow gave, on average",
            lambda f: f.cosine_sum / f.cosines if f.cosines else None,
        ),
        ("studio_shadow_cosine_min", "The same at worst", lambda f: f.cosine_min if f.cosines else None),
        ("studio_shadow_difference_max", "Largest difference of a value", lambda f: f.max_abs if f.compared else None),
        ("studio_shadow_agreement_ratio", "Part of the rows on which both choose the same", lambda f: f.agreement),
    )
    for name, words, value in gauges:
        yield from _head(name, "gauge", words)
        for labels, figures in seen:
            number = value(figures)
            if number is not None:
                yield f"{name}{{{labels}}} {number:.9g}"
    name = "studio_shadow_run_seconds"
    yield from _head(name, "summary", "Time in the runtime, of the answered request (of=answer) and of its copy")
    for labels, figures in seen:
        for role, histogram in (("answer", figures.target_us), ("shadow", figures.shadow_us)):
            for quantile in (0.5, 0.9, 0.99):
                us = histogram.quantile(quantile)
                if us is not None:
                    yield f'{name}{{{labels},of="{role}",quantile="{quantile}"}} {us / 1e6:.9g}'
            yield f'{name}_count{{{labels},of="{role}"}} {histogram.total}'


def _server(service: Service, figures: Figures) -> Iterator[str]:
    yield from _head("nv_inference_pending_request_count", "gauge", "Requests waiting or running, of all models")
    yield f"nv_inference_pending_request_count {figures.pending}"
    yield from _head("nv_model_load_duration_secs", "gauge", "Model load time in seconds")
    for target in service.router.targets():
        if target.name in figures.load_seconds:
            yield f"nv_model_load_duration_secs{{{_labels(target)}}} {figures.load_seconds[target.name]:.6g}"
    import psutil

    memory = psutil.virtual_memory()
    for name, words, value in (
        ("nv_cpu_utilization", "CPU utilization rate of the machine [0.0 - 1.0]", psutil.cpu_percent() / 100),
        ("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", memory.total),
        ("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", memory.total - memory.available),
        ("studio_server_memory_bytes", "Resident memory of the server, shared pages once", figures.memory),
        ("studio_models_loaded", "Models that are loaded", len(figures.load_seconds)),
        ("studio_server_processes", "Processes of the server", figures.processes),
        ("studio_server_ready", "Whether the server takes requests", int(service.ready)),
    ):
        yield from _head(name, "gauge", words)
        yield f"{name} {value}"

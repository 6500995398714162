"""What OIP v2 tells about models: metadata, configuration, statistics, the repository index.

Sources: Open Inference Protocol, inference_rest.md; Triton, extension_model_configuration.md (ModelConfig as JSON),
extension_statistics.md, extension_model_repository.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from studio.core.metrics import ShadowFigures
from studio.core.names import REFERENCE_VARIANT
from studio.core.routing import ModelRoutes, Target
from studio.core.tensors import TensorSpec
from studio.serving.protocols.oip_infer import MAX_BATCH
from studio.serving.router import Router
from studio.serving.statistics import Duration, Totals

Json = dict[str, Any]


def version_name(target: Target) -> str:
    """What stands for the target in the version segment of a URL: '3' for the reference variant, else '3-int8'."""
    return str(target.version) if target.variant == REFERENCE_VARIANT else target.key


def metadata(routes: ModelRoutes, target: Target) -> Json:
    """GET /v2/models/M[/versions/V]"""
    ordered = sorted(
        routes.targets.values(), key=lambda each: (each.version, each.variant != REFERENCE_VARIANT, each.key)
    )
    return {
        "name": target.model,
        "versions": [version_name(each) for each in ordered],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(spec) for spec in target.signature.inputs],
        "outputs": [_tensor(spec) for spec in target.signature.outputs],
    }


def _tensor(spec: TensorSpec) -> Json:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape}


def config(target: Target, cached: bool) -> Json:
    """GET …/config. Targets that take batches have `max_batch_size` > 0 and dims without the batch, as in Triton.

    `cached`: answers are kept for requests that come again.
    """
    batchable = target.signature.batchable
    return {
        "name": target.model,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": MAX_BATCH if batchable else 0,
        "input": [_config_tensor(spec, batchable) for spec in target.signature.inputs],
        "output": [_config_tensor(spec, batchable) for spec in target.signature.outputs],
        "version_policy": {"specific": {"versions": [target.version]}},
        "instance_group": [{"name": target.model, "kind": "KIND_CPU", "count": 1}],
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": cached},
    }


def _config_tensor(spec: TensorSpec, batchable: bool) -> Json:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {
        "name": spec.name,
        "data_type": f"TYPE_{kind}",
        "dims": spec.wire_shape[1:] if batchable else spec.wire_shape,
    }


def statistics(targets: Collection[Target], totals: dict[str, Totals], shadows: Iterable[ShadowFigures] = ()) -> Json:
    """GET …/stats. Where nothing is cached, the cache figures are 0, as perf_analyzer expects.

    `shadow_stats` is ours, and there where a shadow ran along with one of the targets, or was one of them.
    """
    document: Json = {
        "model_stats": [_model_statistics(target, totals.get(target.name) or Totals()) for target in targets]
    }
    names = {target.name for target in targets}
    seen = [_shadow(figures) for figures in shadows if names & {figures.target, figures.shadow}]
    return document | {"shadow_stats": seen} if seen else document


def _shadow(figures: ShadowFigures) -> Json:
    return {
        "target": figures.target,
        "shadow": figures.shadow,
        "compared": figures.compared,
        "dropped": figures.dropped,
        "failed": figures.failed,
        "rows": figures.rows,
        "cosine_mean": figures.cosine_sum / figures.cosines if figures.cosines else None,
        "cosine_min": figures.cosine_min if figures.cosines else None,
        "max_difference": figures.max_abs,
        "agreement": figures.agreement,
        "target_p50_us": figures.target_us.quantile(0.5),
        "shadow_p50_us": figures.shadow_us.quantile(0.5),
        "error": figures.error,
    }


def _model_statistics(target: Target, totals: Totals) -> Json:
    return {
        "name": target.model,
        "version": version_name(target),
        "last_inference": totals.last_ms,
        "inference_count": totals.rows,
        "execution_count": totals.executions,
        "inference_stats": {
            "success": _duration(totals.success),
            "fail": _duration(totals.fail),
            "queue": _duration(totals.queue),
            "compute_input": _duration(totals.compute_input),
            "compute_infer": _duration(totals.compute_infer),
            "compute_output": _duration(totals.compute_output),
            "cache_hit": _duration(totals.cache_hit),
            "cache_miss": _duration(totals.cache_miss),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(batch.compute_input),
                "compute_infer": _duration(batch.compute_infer),
                "compute_output": _duration(batch.compute_output),
            }
            for size, batch in sorted(totals.batches.items())
        ],
        "memory_usage": [],
    }


def _duration(duration: Duration) -> Json:
    return {"count": duration.count, "ns": duration.ns}


def index(router: Router, only_ready: bool) -> list[Json]:
    """POST /v2/repository/index. READY = loaded; what is not loaded so far loads with its first request."""
    rows = []
    for target in router.targets():
        state, reason = "READY", ""
        if not router.is_loaded(target):
            failure = router.failure(target)
            state, reason = "UNAVAILABLE", failure.sentence() if failure else "not loaded; loads on first use"
        if state == "READY" or not only_ready:
            rows.append({"name": target.model, "version": version_name(target), "state": state, "reason": reason})
    return rows

"""`/metrics`, read by Prometheus' own parser."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.serving import graphs
from tests.serving.harness import Child, running

ROW = {"inputs": [{"name": "x", "shape": [2, 64], "datatype": "FP32", "data": [0.5] * 128}]}


def samples(server: Child) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    status, headers, body = server.request("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_what_happened_is_counted(tmp_path: Path) -> None:
    table = graphs.table(graphs.mlp(tmp_path, model="digits", version=3), pinned=("digits:3-fp32",))
    with running(tmp_path, table) as server:
        for _ in range(3):
            assert server.infer("digits", ROW)[0] == 200
        assert server.infer("digits", {"inputs": []})[0] == 400
        server.request("POST", "/v1/models/digits:predict", json.dumps({"instances": [[0.5] * 64]}).encode())
        found = samples(server)
        assert server.request("POST", "/metrics")[0] == 405
    own = frozenset({("model", "digits"), ("version", "3"), ("variant", "fp32")})
    assert found["nv_inference_request_success_total", own] == 4
    assert found["nv_inference_count_total", own] == 7
    assert found["nv_inference_exec_count_total", own] == 4
    assert found["nv_inference_request_failure_total", own | {("reason", "OTHER")}] == 1
    assert found["nv_inference_request_failure_total", own | {("reason", "REJECTED")}] == 0
    assert found["studio_requests_total", own | {("protocol", "tfs"), ("status", "200")}] == 1
    assert found["studio_requests_total", own | {("protocol", "v2"), ("status", "400")}] == 1
    assert found["nv_inference_request_duration_us_total", own] > 0
    assert found["studio_models_loaded", frozenset()] == 1
    name = "studio_inference_duration_seconds"
    phases = ("receive", "parse", "queue", "batch", "run", "format")
    sums = {phase: found[f"{name}_sum", own | {("phase", phase)}] for phase in (*phases, "total")}
    assert all(found[f"{name}_count", own | {("phase", phase)}] == 4 for phase in phases)
    assert found[f"{name}_bucket", own | {("phase", "total"), ("le", "+Inf")}] == 4
    assert 0 < sum(sums[phase] for phase in phases) <= sums["total"] * 1.001


def test_series_go_with_their_version(tmp_path: Path) -> None:
    first, second = (graphs.mlp(tmp_path, model="digits", version=version) for version in (1, 2))
    with running(tmp_path, graphs.table(first, pinned=("digits:1-fp32",))) as server:
        server.infer("digits", ROW)
        assert b'version="1"' in server.request("GET", "/metrics")[2]
        server.apply(graphs.table(second, pinned=("digits:2-fp32",), generation=2))
        assert b'version="1"' not in server.request("GET", "/monitoring/prometheus/metrics")[2]

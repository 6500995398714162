"""The response cache: the same answer without a run, and never another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st

from studio.core.settings import ServingSettings
from studio.serving.cache import Cache, key_of
from tests.serving import graphs
from tests.serving.harness import Child, running
from tests.serving.test_grpc import free_port, grpc_port


def infer(server: Child, value: float, **more: Any) -> Any:
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [value] * 64}
    status, answer = server.infer("m", {"inputs": [tensor], **more})
    assert status == 200, answer
    return answer


def test_what_comes_again_is_not_run_again(tmp_path: Path) -> None:
    first = graphs.mlp(tmp_path, model="m")
    with running(tmp_path, graphs.table(first), ServingSettings(cache_bytes=10_000)) as server:
        answers = [infer(server, value) for value in (0.5, 0.5, 0.25, 0.5)]
        assert answers[0] == answers[1] == answers[3] != answers[2]
        assert infer(server, 0.5, id="seven")["id"] == "seven"
        (row,) = server.json("GET", "/v2/models/m/stats")[1]["model_stats"]
        assert (row["inference_count"], row["execution_count"]) == (2, 2)
        counts = {name: row["inference_stats"][name]["count"] for name in ("success", "cache_hit", "cache_miss")}
        assert counts == {"success": 5, "cache_hit": 3, "cache_miss": 2}
        other = graphs.scaled(tmp_path, 2.0, model="m", version=2)
        server.apply(graphs.table(other, generation=2))
        status, _ = server.json("POST", "/v2/models/m/infer", json.loads("{}"))
        assert status == 400


def test_without_the_option_everything_runs(tmp_path: Path) -> None:
    with running(tmp_path, graphs.table(graphs.mlp(tmp_path, model="m"))) as server:
        infer(server, 0.5)
        infer(server, 0.5)
        (row,) = server.json("GET", "/v2/models/m/stats")[1]["model_stats"]
        assert row["inference_count"] == 2
        assert row["inference_stats"]["cache_miss"]["count"] == 0


@pytest.mark.parametrize("size", [0, 10_000])
def test_the_configuration_tells_whether_answers_are_kept(tmp_path: Path, size: int) -> None:
    settings = ServingSettings(cache_bytes=size, grpc_port=free_port())
    with running(tmp_path, graphs.table(graphs.mlp(tmp_path, model="m")), settings) as server:
        assert server.json("GET", "/v2/models/m/config")[1]["response_cache"] == {"enable": bool(size)}
        with triton.InferenceServerClient(f"127.0.0.1:{grpc_port(server)}") as client:
            assert client.get_model_config("m").config.response_cache.enable is bool(size)


_ARRAYS = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(lambda values: np.array(values, np.float32)),
    st.lists(st.integers(-5, 5), max_size=4).map(lambda values: np.array(values, np.int64)),
    st.lists(st.text(max_size=3), max_size=4).map(lambda values: np.array(values, dtype=object)),
)


@given(_ARRAYS, _ARRAYS)
def test_only_equal_requests_have_one_key(left: Any, right: Any) -> None:
    same = left.dtype == right.dtype and left.shape == right.shape and left.tolist() == right.tolist()
    bits = left.dtype.kind == "O" or left.tobytes() == right.tobytes()
    assert (key_of("a", {"x": left}, None) == key_of("a", {"x": right}, None)) == (same and bits)
    assert key_of("a", {"x": left}, None) != key_of("b", {"x": left}, None)
    assert key_of("a", {"x": left}, None) != key_of("a", {"y": left}, None)
    assert key_of("a", {"x": left}, None) != key_of("a", {"x": left}, ("y",))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=60))
def test_it_never_holds_more_than_it_may(requests: list[tuple[int, int]]) -> None:
    cache = Cache(100)
    for name, size in requests:
        cache.put(b"%d" % name, [np.zeros(size, np.uint8)])
        assert sum(array.nbytes for key in range(10) for array in cache.get(b"%d" % key) or []) <= 100


def test_a_row_does_not_keep_its_batch() -> None:
    cache = Cache(1000)
    batch = np.arange(40).reshape(4, 10)
    cache.put(b"k", [batch[1:2]])
    (kept,) = cache.get(b"k") or []
    assert kept.base is None
    assert kept.tolist() == batch[1:2].tolist()

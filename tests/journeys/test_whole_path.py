"""From a file in the inbox to an HTTP answer that equals the source model's, through real processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studio.core.comparison import Plan
from studio.core.errors import Conflict, InvalidInput, StudioError
from tests.journeys.engines import SAMPLES, RunningEngine, until


def ask(url: str, image: np.ndarray[Any, Any], name: str = "image") -> dict[str, Any]:
    body = {"inputs": [{"name": name, "shape": list(image.shape), "datatype": "FP32", "data": image.ravel().tolist()}]}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def test_a_dropped_pt2_becomes_an_endpoint_with_judged_variants(studio: RunningEngine) -> None:
    studio.drop(SAMPLES / "1")
    job = studio.finished_job("digits")
    assert job.state == "done", job.problem
    assert [step.state for step in job.steps] == ["done"] * 9
    detail = studio.client.version("digits", 1)
    images = np.load(SAMPLES / "1" / "digits.npz")["image"][:7]
    with torch.no_grad():
        source = torch.export.load(SAMPLES / "1" / "digits.pt2").module()(torch.from_numpy(images)).numpy()

    answer = ask(f"{studio.url}/v2/models/digits/infer", images)
    assert answer["model_name"] == "digits"
    served = np.array(answer["outputs"][0]["data"]).reshape(source.shape)
    np.testing.assert_allclose(served, source, rtol=1e-4, atol=1e-5)

    variants = {variant.variant: variant for variant in detail.variants}
    assert set(variants) == {"fp32", "fp16", "int8"}
    for name, variant in variants.items():
        assert variant.measurement is not None, variant.verdict.sentence
        assert variant.measurement.p50 > 0
        assert variant.measurement.throughput > 0
        if name != "fp32":
            assert variant.fidelity is not None
            assert variant.fidelity.inputs == "labelled"
            assert variant.verdict.gates
            assert variant.graph is not None
            assert variant.graph.size < detail.manifest.graph.size
        assert variant.verdict.sentence
    for key in ("1", "1-fp16", "1-int8", "latest"):
        served = np.array(ask(f"{studio.url}/v2/models/digits/versions/{key}/infer", images)["outputs"][0]["data"])
        assert (served.reshape(source.shape).argmax(1) == source.argmax(1)).mean() >= 0.85

    # The curl line that every face copies runs as shown.
    curl = studio.client.call("digits").curl
    shown = json.loads(subprocess.run(curl, shell=True, check=True, capture_output=True).stdout)
    assert len(shown["outputs"][0]["data"]) == 10


def test_versions_are_compared_promoted_rolled_back_and_undone(studio: RunningEngine) -> None:
    for folder in ("1", "2"):
        studio.drop(SAMPLES / folder)
        studio.finished_job("digits", count=int(folder))
    client = studio.client
    assert {row.version for row in client.versions().rows} == {1, 2}

    plan = Plan(references=("digits:1-int8", "digits:2"), seconds=3, clients=2, slice_seconds=0.25)
    comparison = client.wait_comparison(client.compare(plan).id)
    assert comparison.state == "done", comparison.problem
    # Of the 300 samples, 128 are set apart to calibrate with; accuracy is that of the others.
    words = r"B is more accurate: A 9\d\.\d % against B 99\.\d % on 172 labelled samples\."
    assert re.search(words, comparison.verdict)
    assert {arm.target for arm in comparison.arms} == {"digits:1-int8", "digits:2-fp32"}
    assert all(arm.requests > 50 and arm.errors == 0 and arm.p50 for arm in comparison.arms)
    assert any(row.ratio for row in comparison.rows)
    # What the comparison sent is also in the time series of each arm.
    until(lambda: client.metrics("digits:2-fp32", since=comparison.created), "points of the second arm")

    first = client.move_alias("digits", "production", "1-int8", "smaller")
    assert (first.before, first.after) == ("", "1-int8")
    assert client.resolve("digits").target == "digits:1-int8"
    second = client.move_alias("digits", "production", "2", "more accurate")
    assert (second.before, second.after) == ("1-int8", "2-fp32")
    assert client.rollback("digits").after == "1-int8"
    assert client.undo().after == "2-fp32"
    image = np.load(SAMPLES / "2" / "digits.npz")["image"][:1]
    assert ask(f"{studio.url}/v2/models/digits/infer", image)["model_version"].startswith("2")
    with pytest.raises(Conflict):
        client.archive("digits:2")
    assert client.archive("digits:1").state == "archived"
    with pytest.raises(StudioError):
        client.resolve("digits:1")
    assert client.restore("digits:1").state != "archived"
    actions = [entry.action for entry in client.journal()]
    assert actions.count("alias.moved") == 4


def test_everything_is_back_after_the_registry_was_deleted(studio: RunningEngine) -> None:
    studio.drop(SAMPLES / "3")
    studio.finished_job("cancer")
    studio.client.move_alias("cancer", "production", "1", "first")
    before = studio.client.version("cancer", 1)
    assert studio.stop() == 0
    (studio.workspace / "registry.duckdb").unlink()
    studio.start()
    assert studio.client.version("cancer", 1) == before
    assert studio.client.resolve("cancer:production").target == "cancer:1-fp32"
    assert any("rebuilt" in notice for notice in studio.client.status().notices)
    # The files are still in the inbox, and are no news.
    assert [job.state for job in studio.client.jobs()] == ["done"]


def test_a_second_engine_says_who_holds_the_workspace(studio: RunningEngine, tmp_path: Path) -> None:
    import sys

    second = subprocess.run(
        [sys.executable, "-m", "studio.engine.main", "--workspace", str(studio.workspace)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == Conflict.exit_code
    assert studio.process is not None
    assert str(studio.process.pid) in second.stderr


def test_what_takes_other_inputs_is_not_compared(studio: RunningEngine) -> None:
    studio.drop(SAMPLES / "1")
    studio.drop(SAMPLES / "3")
    studio.registered("digits")
    studio.registered("cancer")
    with pytest.raises(InvalidInput, match="different inputs"):
        studio.client.compare(Plan(references=("digits:1", "cancer:1"), seconds=2))


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "in a folder"])
def test_a_small_onnx_file_serves_with_external_data_too(studio: RunningEngine, tmp_path: Path, flat: bool) -> None:
    import onnx

    weights = np.random.default_rng(0).normal(size=(30, 400)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "wide",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 30])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 400])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    wide = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    folder = tmp_path / "wide"
    folder.mkdir()
    onnx.save(wide, folder / "wide.onnx", save_as_external_data=True, location="wide.onnx.data", size_threshold=0)
    assert (folder / "wide.onnx.data").stat().st_size == weights.nbytes
    if flat:
        # As torch.onnx.export(dynamo=True) leaves them: two files beside each other.
        studio.drop(folder)
    else:
        shutil.copytree(folder, studio.inbox / "wide")
    job = studio.registered("wide")
    assert job.version == 1, job.problem
    x = np.ones((3, 30), np.float32)
    answer = ask(f"{studio.url}/v2/models/wide/infer", x, "x")
    np.testing.assert_allclose(
        np.array(answer["outputs"][0]["data"]).reshape(3, 400), x @ weights, rtol=1e-4, atol=1e-4
    )

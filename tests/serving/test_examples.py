"""The examples that are shown run as they are shown, for a model of every datatype."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.core.names import Reference
from studio.core.tensors import DATATYPES
from studio.core.views import CallExample
from studio.engine.call import call_example
from studio.pipeline.kit import save_example
from studio.serving.loaded import dtype_of
from tests.serving import graphs
from tests.serving.harness import Child, running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Child]:
    targets = [graphs.identity(folder, datatype, ("n", 2), model=datatype.lower()) for datatype in DATATYPES]
    with running(folder, graphs.table(*targets)) as child:
        yield child


def values(datatype: str) -> Any:
    """One row of two values."""
    if datatype == "BYTES":
        return np.array([["it's", "grün"]], dtype=object)
    return np.array([[1, 0]]).astype(dtype_of(datatype))


def shown(served: Child, folder: Path, datatype: str) -> CallExample:
    target = graphs.identity(folder, datatype, ("n", 2), model=datatype.lower())
    path = save_example(folder / f"{datatype}.json", target.signature, {"x": values(datatype)})
    assert path is not None
    return call_example(f"http://{served.url}", Reference.parse(f"{target.model}:1"), path.read_bytes(), path)


def printed(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_a_call_runs_as_it_is_shown(served: Child, folder: Path, datatype: str) -> None:
    example = shown(served, folder, datatype)
    (answer,) = json.loads(printed("sh", "-c", example.curl))["outputs"]
    assert answer["data"] == values(datatype).ravel().tolist()
    assert printed(sys.executable, "-c", example.python).strip() == str([answer])


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_calls_in_javascript_run_as_they_are_shown(served: Child, folder: Path) -> None:
    """In one file, because each start of node takes as long as all the requests."""
    script = "".join(f"{{\n{shown(served, folder, datatype).javascript}}}\n" for datatype in DATATYPES)
    path = folder / "calls.mjs"
    path.write_text(script.replace("console.log(", "console.log(JSON.stringify(").replace(".outputs);", ".outputs));"))
    answers = [json.loads(line) for line in printed("node", str(path)).splitlines()]
    assert [answer[0]["data"] for answer in answers] == [values(datatype).ravel().tolist() for datatype in DATATYPES]


@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_the_example_of_predict_is_answered_when_it_is_posted_back(served: Child, datatype: str) -> None:
    status, _, example = served.request("GET", f"/predict/{datatype.lower()}")
    assert status == 200
    status, answer = served.json("POST", f"/predict/{datatype.lower()}", json.loads(example))
    assert (status, answer.get("outputs")) == (200, {"y": json.loads(example)["x"]}), answer


def test_brain_floats_travel_as_numbers_in_any_json(served: Child) -> None:
    rows = [[1.5, -0.25], [1e38, 0.1]]
    kept = np.array(rows).astype(dtype_of("BF16")).astype(np.float32).tolist()
    np.testing.assert_allclose(served.json("POST", "/predict/bf16", rows)[1]["outputs"]["y"], kept, rtol=1e-6)
    predictions = served.json("POST", "/v1/models/bf16:predict", {"instances": rows})[1]["predictions"]
    np.testing.assert_allclose(predictions, kept, rtol=1e-6)
    status, answer = served.json("POST", "/v1/models/bf16:predict", {"inputs": [[3.4e38, 0]]})
    assert (status, "out of the range of BF16" in answer["error"]) == (400, True)

"""Sessions, signatures, observed batching, measurements and facts of graphs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from studio.core import codec
from studio.core.errors import Refused, StepFailed
from studio.core.manifest import FileRef, Machine, Measurement
from studio.verify import measure as measuring
from studio.verify.batching import rows_equal
from studio.verify.graph_info import describe
from studio.verify.machine import this_machine, tool_versions
from studio.verify.session import open_session, run, signature_of

from .conftest import value, write


def test_a_signature_keeps_names_scalars_and_strings(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Identity", ["rate"], ["r"]),
        helper.make_node("Identity", ["text"], ["t"]),
    ]
    inputs = [value("x", "batch", None, 3), value("rate", kind=TensorProto.INT64), value("text", 2, kind=8)]
    outputs = [value("y", "batch", None, 3), value("r", kind=TensorProto.INT64), value("t", 2, kind=8)]
    found = signature_of(open_session(write(tmp_path / "m.onnx", nodes, inputs, outputs, {})))
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.inputs] == [
        ("x", "FP32", ("batch", "?", 3)),
        ("rate", "INT64", ()),
        ("text", "BYTES", (2,)),
    ]
    assert found.batchable is False


def test_sequences_are_refused_in_words(tmp_path: Path) -> None:
    node = helper.make_node("SplitToSequence", ["x"], ["y"])
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    path = write(tmp_path / "m.onnx", [node], [value("x", "n", 3)], [output], {})
    with pytest.raises(Refused, match="'y' is a seq"):
        signature_of(open_session(path))


def test_a_locale_that_the_machine_lacks_is_named(tmp_path: Path) -> None:
    def normaliser(locale: str) -> Path:
        node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale=locale)
        texts = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "xy"]
        graph = helper.make_graph([node], "g", texts[:1], texts[1:])
        path = tmp_path / "texts.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
        return path

    with pytest.raises(Refused) as caught:
        open_session(normaliser("xx_XX.UTF-8"))
    assert caught.value.what == "The model needs the locale 'xx_XX.UTF-8', which this machine does not have."
    assert "localedef -i xx_XX -f UTF-8 xx_XX.UTF-8" in caught.value.fix
    # What it advises.
    feed = {"x": np.array(["ÄB"], dtype=object)}
    assert run(open_session(normaliser("C.UTF-8")), feed)["y"].tolist() == ["äb"]


def test_what_does_not_load_or_run_is_an_error_in_words(net, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(Refused, match="can not load"):
        open_session(broken)
    with pytest.raises(StepFailed, match=r"x \[1, 3\]"):
        run(open_session(net("reference")), {"x": np.zeros((1, 3), np.float32)})


def test_independent_rows_are_batchable(net, rows: dict[str, np.ndarray]) -> None:
    assert rows_equal(open_session(net("reference")), rows)
    assert rows_equal(open_session(net("reference")), {"x": rows["x"][:2]})


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        # The mean over the batch leaks from row to row.
        (
            [
                helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
                helper.make_node("Sub", ["x", "m"], ["y"]),
            ],
            ("batch", 16),
        ),
        # Declares a free batch and runs only multiples of four.
        (
            [helper.make_node("Reshape", ["x", "four"], ["a"]), helper.make_node("Flatten", ["a"], ["y"])],
            ("batch", "rest"),
        ),
        # One answer for the whole batch, declared as one a row.
        ([helper.make_node("ReduceSum", ["x", "zero"], ["y"], keepdims=1)], ("batch", 16)),
    ],
)
def test_a_declared_batch_is_not_believed(tmp_path: Path, rows: dict[str, np.ndarray], nodes, shape) -> None:
    weights = {"four": np.array([-1, 4, 16], np.int64), "zero": np.array([0], np.int64)}
    used = {name: weights[name] for node in nodes for name in node.input if name in weights}
    path = write(tmp_path / "m.onnx", nodes, [value("x", "batch", 16)], [value("y", *shape)], used)
    assert not rows_equal(open_session(path), rows)


def test_a_fixed_batch_is_not_batchable(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [value("x", 1, 4)], [value("y", 1, 4)], {}
    )
    assert not rows_equal(open_session(path), {"x": np.ones((5, 4), np.float32)})


def test_memory_counts_the_weights_in_a_fresh_process(tmp_path: Path) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((1024, 8192)).astype(np.float32)}
    path = write(
        tmp_path / "large.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", "n", 1024)],
        [value("y", "n", 8192)],
        weights,
    )
    code = (
        "import sys, numpy as np\nfrom studio.core import codec\nfrom studio.verify import measure as m\n"
        "found = m.measure_reference(sys.argv[1], {'x': np.ones((4, 1024), np.float32)}, True, seconds=0.1)\n"
        "print(codec.encode(found).decode())"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    found = codec.decode(answer.stdout, Measurement)
    assert 32 * 1024**2 <= found.peak_memory < 400 * 1024**2
    assert found.load_ms > 0 and found.speedup is None


def test_a_measurement_reports_progress_and_every_setting(
    net, rows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "usable_cores", lambda: 2)
    told: list[float] = []
    found = measuring.measure(net("a"), net("b"), rows, True, 1, lambda share, text: told.append(share), seconds=0.2)
    assert told == sorted(told) and told[-1] == 1.0
    settings = [(entry.batch, entry.threads) for entry in found.latency]
    best = found.throughput_batch
    assert settings[:4] == [(1, 1), (4, 1), (16, 1), (32, 1)]
    assert settings[4:] == [(1, 2), (best, 2)] if best > 1 else [(1, 2)]
    assert found.speedup == found.latency[0].speedup
    for entry in found.latency:  # each has its own interval against the reference at the same setting
        assert entry.speedup is not None and entry.speedup.low <= entry.speedup.value <= entry.speedup.high
        assert entry.p50 <= entry.p95 <= entry.p99 and entry.rate == 1000 * entry.batch / entry.p50
    fastest = found.at(best, 1)
    assert fastest is not None and found.throughput == fastest.rate
    assert found.tuned is not None and found.tuned.batch == best and found.tuned.threads in (1, 2)
    single = measuring.measure(net("a"), net("b"), rows, False, seconds=0.1)
    assert {entry.batch for entry in single.latency} == {1} and single.throughput_batch == 1
    assert single.rate_speedup is None


def test_a_second_thread_is_only_advised_where_it_helps(
    net, rows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "usable_cores", lambda: 2)
    # 20 kB of weights: nothing to share between two threads.
    small = measuring.measure_reference(net("a"), rows, True, seconds=0.3)
    assert small.tuned is not None and small.tuned.threads == 1
    monkeypatch.setattr(measuring, "usable_cores", lambda: 1)
    alone = measuring.measure_reference(net("a"), rows, True, seconds=0.1)
    assert {entry.threads for entry in alone.latency} == {1}
    monkeypatch.setattr(measuring, "usable_cores", lambda: 2)
    monkeypatch.setattr(measuring, "free_memory", lambda: 0)
    tight = measuring.measure_reference(net("a"), rows, True, seconds=0.1)
    assert {entry.threads for entry in tight.latency} == {1}


def test_batches_that_would_take_too_long_are_left_out(net, rows: dict[str, np.ndarray]) -> None:
    heavy = net("heavy", extra=400)
    found = measuring.measure(heavy, heavy, rows, True, seconds=0.01)
    assert found.latency[0].batch == 1
    assert len({entry.batch for entry in found.latency}) < 4


def test_a_model_that_takes_no_single_rows_is_measured_whole(tmp_path: Path, rows: dict[str, np.ndarray]) -> None:
    path = write(
        tmp_path / "m.onnx",
        [helper.make_node("Reshape", ["x", "four"], ["y"])],
        [value("x", "batch", 16)],
        [value("y", "n", 4, 16)],
        {"four": np.array([-1, 4, 16], np.int64)},
    )
    assert measuring.measure_reference(path, rows, False, seconds=0.05).latency[0].batch == 120


def test_the_interval_of_a_speedup_holds_the_truth_and_repeats() -> None:
    ratios = list(2.0 * np.exp(np.random.default_rng(3).normal(0, 0.1, 60)))
    found = measuring.speedup(ratios)
    assert found.low < 2.0 < found.high
    assert 1.9 < found.low <= found.value <= found.high < 2.1
    assert measuring.speedup(ratios) == found
    # One pre-empted round is no evidence.
    assert measuring.speedup([*ratios, 500.0]).high < 2.1


def test_facts_of_a_graph_count_branches_and_coefficients(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["out"])],
        "branch",
        [],
        [value("out", 2)],
        [helper.make_tensor("inner", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Scaler", ["y"], ["z"], domain="ai.onnx.ml", offset=[1.0, 2.0], scale=[3.0, 4.0]),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", 2)], [value("z", 2)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, ir_version=9, opset_imports=opsets)
    facts = describe(model, FileRef(name="m.onnx", sha256="0" * 64, size=5))
    assert (facts.opset, facts.ir_version, facts.size) == (17, 9, 5)
    assert facts.parameters == 2 * 2 + 1 + 4
    assert facts.operators == {"Add": 2, "Constant": 1, "If": 1, "ai.onnx.ml.Scaler": 1}


def test_facts_need_no_external_weights(net, tmp_path: Path) -> None:
    model = onnx.load(net("reference"))
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    bare = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    weights = (FileRef(name="w.bin", sha256="1" * 64, size=20480),)
    facts = describe(bare, FileRef(name="out.onnx", sha256="0" * 64, size=300), weights)
    assert facts.parameters == 16 * 256 + 256 * 4
    assert facts.size == 20780


def test_the_machine_and_its_tools_are_named() -> None:
    machine = this_machine()
    assert isinstance(machine, Machine) and machine.cpu and machine.cores >= 1 and machine.memory > 2**28
    assert machine.runtime.startswith("onnxruntime 1.")
    tools = tool_versions("pytest", "no-such-distribution")
    assert {"python", "onnxruntime", "onnx", "numpy", "pytest"} <= set(tools)
    assert "no-such-distribution" not in tools

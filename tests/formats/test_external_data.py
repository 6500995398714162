"""External data: every place it can hide in, and every name that leads elsewhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.formats.base import ArrivalFiles
from studio.formats.onnx.external_data import byte_size, external, slice_of, tensors
from studio.formats.onnx.files import write_whole
from studio.formats.onnx.model import OnnxFormat
from studio.formats.settings.file import ModelSettings
from studio.pipeline.kit import WorkKit
from tests.formats.graphs import finish, linear, outside, save, send_outside, weights


def answer(graph: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def folder(tmp_path: Path) -> tuple[Path, Path]:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    out.mkdir()
    return model, out


def test_external_weights_come_into_one_file(tmp_path: Path) -> None:
    source, out = folder(tmp_path)
    (source / "sub").mkdir()
    (source / "sub" / "w.bin").write_bytes(b"\0" * 64 + weights().tobytes())
    written = write_whole(outside("sub/w.bin", 64), source, out / "model.onnx")
    assert written.weights == ()
    assert written.sources == (source / "sub" / "w.bin",)
    x = weights(1, (2, 4))
    np.testing.assert_allclose(answer(written.graph, x), x @ weights(), rtol=1e-6)


def test_large_weights_lie_beside_the_graph_under_their_hash(tmp_path: Path) -> None:
    source, out = folder(tmp_path)
    (source / "w.bin").write_bytes(weights().tobytes() + b"the rest")
    written = write_whole(outside(), source, out / "model.onnx", limit=40)
    digest = hashlib.sha256((source / "w.bin").read_bytes()).hexdigest()
    assert [path.name for path in written.weights] == [digest]
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in (written.graph, *written.weights):
        path.rename(blobs / hashlib.sha256(path.read_bytes()).hexdigest())
    graph = next(path for path in blobs.iterdir() if path.name != digest)
    x = weights(1, (2, 4))
    np.testing.assert_allclose(answer(graph, x), x @ weights(), rtol=1e-6)


HOSTILE_NAMES = {
    "parent": "../secret",
    "detour": "sub/../../secret",
    "absolute": "/etc/hostname",
    "link": "link",
    "folder link": "away/secret",
    "backslash": "..\\secret",
    "empty": "",
    "itself": ".",
    "null": "secret\0.bin",
    "drive": "c:/secret",
}


def set_traps(tmp_path: Path, source: Path) -> None:
    (tmp_path / "secret").write_bytes(weights().tobytes())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_bytes(weights().tobytes())
    (source / "sub").mkdir()
    (source / "link").symlink_to(tmp_path / "secret")
    (source / "away").symlink_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("case", HOSTILE_NAMES)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, case: str) -> None:
    source, out = folder(tmp_path)
    set_traps(tmp_path, source)
    with pytest.raises(Refused) as caught:
        write_whole(outside(HOSTILE_NAMES[case]), source, out / "model.onnx")
    assert caught.value.why
    assert list(out.iterdir()) == []


def test_a_hard_link_is_refused_in_words(tmp_path: Path) -> None:
    source, out = folder(tmp_path)
    (tmp_path / "secret").write_bytes(weights().tobytes())
    os.link(tmp_path / "secret", source / "w.bin")
    with pytest.raises(Refused, match="more than one name") as caught:
        write_whole(outside(), source, out / "model.onnx")
    assert "cp, not ln" in caught.value.fix


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    source, out = folder(tmp_path)
    os.mkfifo(source / "w.bin")
    with pytest.raises(Refused, match="no plain file"):
        write_whole(outside(), source, out / "model.onnx")


def test_missing_and_short_files_are_told_apart(tmp_path: Path) -> None:
    source, out = folder(tmp_path)
    with pytest.raises(InvalidInput, match="is missing"):
        write_whole(outside(), source, out / "model.onnx")
    (source / "w.bin").write_bytes(weights().tobytes()[:-1])
    with pytest.raises(InvalidInput, match="too short"):
        write_whole(outside(), source, out / "model.onnx")


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (None, -4), (None, 47), (10**30, None), (2**62, None)])
def test_impossible_places_are_refused(tmp_path: Path, offset: int | None, length: int | None) -> None:
    source, out = folder(tmp_path)
    (source / "w.bin").write_bytes(weights().tobytes())
    with pytest.raises(StudioError):
        write_whole(outside("w.bin", offset, length), source, out / "model.onnx")


def evil_tensor(name: str = "t") -> onnx.TensorProto:
    tensor = numpy_helper.from_array(weights(), name)
    send_outside(tensor, "../secret")
    return tensor


def evil_sparse() -> onnx.SparseTensorProto:
    sparse = onnx.SparseTensorProto()
    sparse.values.CopyFrom(evil_tensor())
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4, dtype=np.int64), "i"))
    sparse.dims.extend([4, 3])
    return sparse


def in_sparse_initialiser(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(evil_sparse())


def in_sparse_indices(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(weights(), "v"))
    sparse.indices.CopyFrom(evil_tensor())


def constant(**attribute: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], **attribute)


def in_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(constant(value=evil_tensor()))


def in_sparse_constant(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.CopyFrom(evil_sparse())
    model.graph.node.append(node)


def in_tensor_list(model: onnx.ModelProto) -> None:
    node = helper.make_node("Custom", [], ["c"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "many", onnx.AttributeProto.TENSORS
    attribute.tensors.append(evil_tensor())
    model.graph.node.append(node)


def branch() -> onnx.GraphProto:
    return helper.make_graph([constant(value=evil_tensor())], "branch", [], [])


def in_branch(model: onnx.ModelProto) -> None:
    inner = helper.make_graph(
        [helper.make_node("If", ["b"], ["c"], then_branch=branch(), else_branch=branch())], "i", [], []
    )
    model.graph.node.append(helper.make_node("If", ["b"], ["c"], then_branch=inner, else_branch=inner))


def in_function(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "F", [], ["c"], [constant(value=evil_tensor())], opsets))


def in_function_default(model: onnx.ModelProto) -> None:
    function = model.functions.add()
    function.name = "G"
    function.attribute_proto.append(helper.make_attribute("value", evil_tensor()))


def in_training_info(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(evil_tensor())


PLACES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "sparse initialiser": in_sparse_initialiser,
    "sparse indices": in_sparse_indices,
    "constant": in_constant,
    "sparse constant": in_sparse_constant,
    "list of tensors": in_tensor_list,
    "nested branches": in_branch,
    "function": in_function,
    "function's default": in_function_default,
    "training information": in_training_info,
}


@pytest.mark.parametrize("place", PLACES)
def test_no_place_hides_external_data(tmp_path: Path, place: str) -> None:
    source, out = folder(tmp_path)
    set_traps(tmp_path, source)
    model = linear()
    PLACES[place](model)
    with pytest.raises(Refused, match="outside the model's folder"):
        write_whole(model, source, out / "model.onnx")


def test_every_tensor_is_walked_once() -> None:
    model = linear()
    for hide in PLACES.values():
        hide(model)
    # 1 of `linear`; the sparse ones hold two each; the nested branches hold four.
    assert sum(1 for _ in tensors(model)) == 1 + 2 + 2 + 1 + 2 + 1 + 4 + 1 + 1 + 1
    assert len(external(model)) == len(PLACES) + 3


def test_sizes_in_bytes_are_those_of_onnx() -> None:
    for name, number in TensorProto.DataType.items():
        if number > 26:  # newer than what ONNX Runtime loads: refused
            continue
        tensor = TensorProto(data_type=number, dims=[3, 5])
        if name in ("UNDEFINED", "STRING"):
            with pytest.raises(Refused):
                byte_size(tensor)
        elif number in (21, 22, 23, 25, 26):  # packed: two or four to a byte
            assert byte_size(tensor) == -(-15 // (4 if number in (25, 26) else 2)), name
        else:
            assert byte_size(tensor) == 15 * helper.tensor_dtype_to_np_dtype(number).itemsize, name


def test_negative_dimensions_have_no_size() -> None:
    with pytest.raises(Refused, match="no size in bytes"):
        byte_size(TensorProto(data_type=1, dims=[-4, -3]))


def test_a_mark_of_the_runtime_s_own_memory_is_a_file_name_like_any_other(tmp_path: Path) -> None:
    # ONNX Runtime takes this location, and an offset, for an address in its own process.
    source, out = folder(tmp_path)
    with pytest.raises(InvalidInput, match="is missing"):
        write_whole(outside("*/_ORT_MEM_ADDR_/*", 140000000000000), source, out / "model.onnx")


def test_weights_too_large_for_one_file_go_through_a_whole_conversion(tmp_path: Path) -> None:
    """The limit is 1.9 GB; here it is 40 bytes. An old opset is upgraded without its weights being read."""
    source, out = folder(tmp_path)
    model = outside()
    model.opset_import[0].version = 9
    path = save(model, source / "model.onnx")
    (source / "w.bin").write_bytes(weights().tobytes())
    files = ArrivalFiles.of((source,))
    kit = WorkKit(None, ModelSettings(), lambda *_: None)
    chosen = OnnxFormat(inline_limit=40)
    recognition = chosen.recognise(files)
    assert recognition is not None
    converted = chosen.convert(files, recognition, out, kit)
    digest = hashlib.sha256(weights().tobytes()).hexdigest()
    assert [one.name for one in converted.weights] == [digest]
    assert set(converted.sources) == {path, source / "w.bin"}
    graph = onnx.load(converted.graph, load_external_data=False)
    assert graph.opset_import[0].version == 17
    assert {entry.key: entry.value for entry in graph.graph.initializer[0].external_data}["location"] == digest
    for one in source.iterdir():
        one.unlink()
    x = weights(1, (2, 4))
    np.testing.assert_allclose(answer(converted.graph, x), x @ weights(), rtol=1e-6)
    assert sorted(one.name for one in out.iterdir()) == sorted([digest, "model.onnx"])


def test_a_model_without_external_data_is_left_alone(tmp_path: Path) -> None:
    source, out = folder(tmp_path)
    written = write_whole(finish(linear().graph), source, out / "model.onnx")
    assert written.sources == ()
    assert save(linear(), tmp_path / "same.onnx").read_bytes() == written.graph.read_bytes()


def test_a_location_that_is_no_text_is_refused() -> None:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "w.bin"
    damaged = onnx.TensorProto.FromString(tensor.SerializeToString().replace(b"w.bin", b"w.bi\x80"))
    with pytest.raises(Refused):
        slice_of(damaged)

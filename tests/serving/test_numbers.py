"""Long lists of numbers: read by the SIMD parser, they are what the ordinary way makes of them, to the bit; and what
that refuses is refused in the same words."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import InvalidInput
from studio.core.routing import Target
from studio.core.tensors import Signature, TensorSpec
from studio.serving.protocols import numbers, oip_infer, tfs_json
from studio.serving.protocols.json_text import load_json
from studio.serving.protocols.numbers import Numbers

pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # the server switches them off

COUNT = 2400
SHAPES = ([COUNT], [1, COUNT], [40, 60], [2, 30, 40], [COUNT, 1], [1, 1, COUNT])
DATATYPES = ("FP32", "FP64", "FP16", "BF16", "INT8", "UINT8", "INT32", "INT64", "UINT64", "BOOL", "BYTES")


def target(datatype: str, rank: int, inputs: int = 1) -> Target:
    specs = tuple(TensorSpec(f"x{n}", datatype, ("a", "b", "c")[:rank]) for n in range(inputs))
    return Target(model="m", version=1, variant="fp32", path="", sha256="", signature=Signature(specs, specs, False))


def v2(data: Any, datatype: str, shape: list[int], **more: Any) -> bytes:
    entry = {"name": "x0", "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"id": "1", "inputs": [entry], **more}).encode()


def both(read: Any, body: bytes) -> tuple[Any, Any]:
    """What comes of it with the SIMD parser and without: the tensors, or the words."""

    def one() -> Any:
        try:
            return read(body)
        except InvalidInput as error:
            return str(error)

    fast = one()
    with mock.patch.object(numbers, "FROM_BYTES", 1 << 60):
        return fast, one()


def same(fast: Any, ordinary: Any) -> None:
    if isinstance(ordinary, str):
        assert fast == ordinary
        return
    assert fast.keys() == ordinary.keys()
    for name, expected in ordinary.items():
        assert fast[name].dtype == expected.dtype
        assert fast[name].shape == expected.shape
        if expected.dtype == object:
            assert (fast[name] == expected).all()
        else:
            assert fast[name].tobytes() == expected.tobytes()


def read_v2(datatype: str, shape: list[int]) -> Any:
    return lambda body: oip_infer.parse(body, {}, target(datatype, len(shape))).inputs


def read_tfs(datatype: str, rank: int, inputs: int = 1) -> Any:
    return lambda body: tfs_json.predict_inputs(tfs_json.load(body), target(datatype, rank, inputs))[1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_are_read_without_lists(shape: list[int]) -> None:
    data = np.round(np.random.default_rng(0).random(shape), 4).tolist()
    body = v2(data, "FP32", shape)
    document = numbers.load(body, load_json, lambda path: path[-1:] == ("data",))
    assert isinstance(document["inputs"][0]["data"], Numbers)
    assert document["inputs"][0]["data"].shape == tuple(shape)
    assert document["id"] == "1"


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_datatype_and_nesting_is_the_same(datatype: str, shape: list[int]) -> None:
    rng = np.random.default_rng(1)
    for values in (rng.integers(0, 100, shape), rng.integers(-100, 100, shape), rng.normal(size=shape)):
        for data in (values.tolist(), values.reshape(-1).tolist()):
            same(*both(read_v2(datatype, shape), v2(data, datatype, shape)))
        same(*both(read_tfs(datatype, len(shape)), json.dumps({"instances": values.tolist()}).encode()))
        same(*both(read_tfs(datatype, len(shape)), json.dumps({"inputs": {"x0": values.tolist()}}).encode()))


ODD: list[Any] = [
    *(None, True, False, "a", "1", [], [1], [1, 2], {}, {"b64": "YQ=="}, {"a": [1]}, [[1]]),
    *(2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30, 1e300, 65505, 3.5e38, -0.0, 1.0),
]


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_one_odd_value_is_the_same(datatype: str, odd: Any) -> None:
    for shape in ([COUNT], [40, 60]):
        for place in (0, 7, COUNT - 1):
            flat: list[Any] = [1] * COUNT
            flat[place] = odd
            data = flat if len(shape) == 1 else [flat[n * 60 : n * 60 + 60] for n in range(40)]
            same(*both(read_v2(datatype, shape), v2(data, datatype, shape)))
            same(*both(read_tfs(datatype, len(shape)), json.dumps({"instances": data}).encode()))


def _ragged() -> list[tuple[str, Any]]:
    rows = [[1.5] * 60 for _ in range(40)]
    return [
        ("two rows trade a number", [*rows[:-2], [1.5] * 59, [1.5] * 61]),
        ("a row is short", [*rows[:-1], [1.5] * 59]),
        ("a row is missing", rows[:-1]),
        ("a number among rows", [*rows[:-1], 1.5]),
        ("a row among numbers", [[*([1.5] * 59), [1.5]], *rows[1:]]),
        ("an empty row", [*rows[:-1], []]),
        ("a row a level deeper", [*rows[:-1], [[1.5] * 60]]),
        ("one in brackets", [1.5] * (COUNT - 1) + [[1.5]]),
    ]


@pytest.mark.parametrize(("what", "data"), _ragged(), ids=[what for what, _ in _ragged()])
def test_ragged_lists_are_refused_in_the_same_words(what: str, data: Any) -> None:
    for shape in ([40, 60], [COUNT], [2, 30, 40]):
        fast, ordinary = both(read_v2("FP32", shape), v2(data, "FP32", shape))
        assert isinstance(ordinary, str)
        same(fast, ordinary)
        fast, ordinary = both(read_tfs("FP32", len(shape)), json.dumps({"instances": data}).encode())
        same(fast, ordinary)


@pytest.mark.parametrize(
    "body",
    [
        v2([1] * COUNT, "FP32", [COUNT])[:-1],
        v2([1] * COUNT, "FP32", [COUNT]) + b"x",
        v2([1] * COUNT, "FP32", [COUNT]).replace(b"1, 1", b"1,, 1", 1),
        v2([1] * COUNT, "FP32", [COUNT]).replace(b"1, 1", b"01, 1", 1),
        v2([1] * COUNT, "FP32", [COUNT]).replace(b"1, 1", b"NaN, 1", 1),
        v2([1] * COUNT, "FP32", [COUNT]).replace(b"1, 1", b"1e999, 1", 1),
        v2([1] * COUNT, "FP32", [COUNT]).replace(b'"x0"', b'"\xff"', 1),
        v2([1] * COUNT, "FP32", [COUNT], deep=json.loads("[" * 200 + "]" * 200)),
        v2([1] * COUNT, "FP32", [COUNT], id="[" * 7),
        v2([1] * COUNT, "FP32", [COUNT]).replace(b'"data"', b'"data": [1, 2], "data"', 1),
        v2([1] * COUNT, "FP32", [COUNT]).replace(b"}]}", b'}], "inputs": [], "outputs": [{"name": "x0"}]}'),
        v2([1] * COUNT, "FP32", [COUNT], parameters={"a": [0] * 100}),
        v2([1] * COUNT, "FP32", [COUNT], **{"a\0b": [1]}),  # the fast parser lists this key, and does not find it
        v2([1] * COUNT, "FP32", [COUNT, 1]),
        b"[" + b"1," * COUNT + b"1]",
        b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"\xef\xbb\xbf" + v2([1] * COUNT, "FP32", [COUNT]),
    ],
)
def test_broken_and_unusual_documents_are_the_same(body: bytes) -> None:
    same(*both(read_v2("FP32", [COUNT]), body))
    same(*both(read_tfs("FP32", 1), body.replace(b'"inputs"', b'"instances"')))


def test_rows_as_objects_go_the_ordinary_way() -> None:
    rows = [{"x0": [1.5] * 100, "x1": [2] * 100} for _ in range(20)]
    body = json.dumps({"instances": rows}).encode()
    fast, ordinary = both(read_tfs("FP32", 2, inputs=2), body)
    assert ordinary["x1"].shape == (20, 100)
    same(fast, ordinary)
    same(*both(read_tfs("FP32", 2, inputs=2), json.dumps({"instances": [[1.0] * 100] * 20}).encode()))


def test_several_inputs_in_one_document() -> None:
    entries = [{"name": f"x{n}", "datatype": "FP32", "shape": [1, COUNT], "data": [n + 0.5] * COUNT} for n in range(3)]
    body = json.dumps({"inputs": entries}).encode()
    same(*both(lambda body: oip_infer.parse(body, {}, target("FP32", 2, 3)).inputs, body))


def test_tensors_outlive_the_next_document_and_a_failed_one_is_no_hindrance() -> None:
    read = read_v2("FP64", [COUNT])
    first = read(v2([0.25] * COUNT, "FP64", [COUNT]))["x0"]
    try:
        read(v2([0.25] * (COUNT - 1) + [None], "FP64", [COUNT]))
    except InvalidInput as error:
        kept = error  # its traceback keeps the failed document alive
    second = read(v2([0.5] * COUNT, "FP64", [COUNT]))["x0"]
    assert (first == 0.25).all()
    assert (second == 0.5).all()
    assert "null" in str(kept)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(("FP32", "FP64", "FP16", "INT64", "UINT64", "INT8")),
)
def test_any_numbers_are_the_same(values: list[float], datatype: str) -> None:
    data = (values * COUNT)[:COUNT]
    same(*both(read_v2(datatype, [COUNT]), v2(data, datatype, [COUNT])))

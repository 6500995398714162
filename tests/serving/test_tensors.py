"""Tensors survive the wire: JSON and binary, every datatype; and what lies about itself is refused."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from studio.core.errors import InvalidInput
from studio.core.tensors import DATATYPES
from studio.serving.loaded import dtype_of
from studio.serving.protocols import oip_tensors as tensors

NUMERIC = [name for name in DATATYPES if name not in ("BYTES", "BF16")]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=5)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def arrays(datatype: str, finite: bool) -> st.SearchStrategy[Any]:
    if datatype == "BYTES":
        return SHAPES.flatmap(
            lambda shape: st.lists(WORDS, min_size=prod(shape), max_size=prod(shape)).map(
                lambda words: np.array(words, dtype=object).reshape(shape)
            )
        )
    if datatype == "BF16":
        words = st.integers(0, 2**16 - 1).filter(lambda word: not finite or word & 0x7F80 != 0x7F80)
        return hnp.arrays(np.uint16, SHAPES, elements=words).map(lambda words: words.view(ml_dtypes.bfloat16))
    elements = {"allow_nan": not finite, "allow_infinity": not finite} if datatype.startswith("FP") else None
    return hnp.arrays(dtype_of(datatype), SHAPES, elements=elements)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, so that -0.0 and the payload of NaN count."""
    if a.dtype == object:
        return a.shape == b.shape and a.dtype == b.dtype and a.tolist() == b.tolist()
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("datatype", list(DATATYPES))
@given(data=st.data(), nested=st.booleans())
def test_json_round_trip(datatype: str, data: st.DataObject, nested: bool) -> None:
    array = data.draw(arrays(datatype, finite=True))
    written = orjson.dumps(tensors.to_json(array, datatype), option=orjson.OPT_SERIALIZE_NUMPY)
    flat = orjson.loads(written)
    if nested and array.ndim:
        flat = np.array(flat, dtype=object).reshape(array.shape).tolist()
    assert same(tensors.from_json(flat, datatype, array.shape, "x"), array)


@pytest.mark.parametrize("datatype", list(DATATYPES))
@given(data=st.data(), offset=st.integers(0, 9))
def test_binary_round_trip(datatype: str, data: st.DataObject, offset: int) -> None:
    """At any place in a body, aligned or not."""
    array = data.draw(arrays(datatype, finite=False))
    written = tensors.to_binary(array, datatype)
    view = memoryview(b"\x55" * offset + written)[offset:]
    read = tensors.from_binary(view, datatype, array.shape, "x", "m")
    assert same(read, array)
    assert read.flags.aligned


@given(data=st.data(), datatype=st.sampled_from(list(DATATYPES)))
def test_any_bytes_are_a_tensor_or_refused(data: st.DataObject, datatype: str) -> None:
    raw = data.draw(st.binary(max_size=64))
    shape = tuple(data.draw(st.lists(st.integers(1, 2**40), max_size=3)))
    try:
        array = tensors.from_binary(memoryview(raw), datatype, shape, "x", "m")
    except InvalidInput:
        return
    assert array.shape == shape
    assert same(tensors.from_binary(memoryview(tensors.to_binary(array, datatype)), datatype, shape, "x", "m"), array)


BF16_WORDS = np.arange(0x7F80, dtype=np.uint16)
"""All that are finite and not negative, in their order."""
BF16_VALUES = BF16_WORDS.view(ml_dtypes.bfloat16).astype(np.float64)


def nearest_bf16(value: float) -> int:
    """The word of the nearest BF16, of two as near the even one. Fractions are exact."""
    size = abs(Fraction(value))
    above = int(np.searchsorted(BF16_VALUES, float(abs(value))))
    near = range(max(above - 2, 0), min(above + 3, len(BF16_WORDS)))
    word = min(near, key=lambda word: (abs(Fraction(BF16_VALUES[word]) - size), word % 2))
    return word | (0x8000 if value < 0 or str(value) == "-0.0" else 0)


HALVES = st.integers(0, 0x7F7E).map(lambda word: float(BF16_VALUES[word] + BF16_VALUES[word + 1]) / 2)
"""What lies in the middle of two: there a second rounding shows."""
NEAR_HALVES = st.tuples(HALVES, st.sampled_from([0.0, 2.0**-30, -(2.0**-30), 2.0**-52, -(2.0**-52)])).map(
    lambda pair: pair[0] * (1 + pair[1])
)


@given(values=st.lists(st.floats(-3e38, 3e38) | NEAR_HALVES, min_size=1), sign=st.sampled_from([1, -1]))
@pytest.mark.parametrize("times", [1, 200])
def test_bf16_is_rounded_once(values: list[float], sign: int, times: int) -> None:
    values = [sign * value for value in values] * times
    array = tensors.from_json(values, "BF16", (len(values),), "x")
    assert array.view(np.uint16).tolist() == [nearest_bf16(value) for value in values]


BY_HALVES = st.builds(lambda high, by: 2**high + 2 ** (high - 8) + by, st.integers(8, 63), st.integers(-1, 1))


@given(
    values=st.lists(st.integers(0, 2**64 - 1) | BY_HALVES, min_size=1)
    | st.lists(st.integers(-(2**63), 2**63 - 1) | BY_HALVES.filter(lambda v: v < 2**63).map(lambda v: -v), min_size=1)
)
def test_whole_numbers_are_rounded_once_to_bf16(values: list[int]) -> None:
    array = tensors.from_json(values, "BF16", (len(values),), "x")
    assert array.view(np.uint16).tolist() == [nearest_bf16(value) for value in values]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(value=JSON_VALUES, datatype=st.sampled_from(list(DATATYPES)), shape=st.lists(st.integers(1, 4), max_size=3))
def test_any_json_is_a_tensor_or_refused(value: Any, datatype: str, shape: list[int]) -> None:
    try:
        array = tensors.from_json(value, datatype, tuple(shape), "x")
    except InvalidInput:
        return
    assert array.shape == tuple(shape)
    assert array.dtype == dtype_of(datatype)


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("FP32", [1.0, None], "null"),
        ("FP32", ["1.5", "2"], "strings"),
        ("FP32", [True, False], "booleans"),
        ("FP32", [1e39, 0.0], "out of the range of FP32"),
        ("FP16", [70000, 1], "out of the range of FP16"),
        ("INT8", [127, 128], "out of the range of INT8"),
        ("UINT8", [-1, 0], "out of the range of UINT8"),
        ("INT64", [1.5, 1], "fraction"),
        ("INT64", [2**63, 0], "out of the range of INT64"),
        ("INT32", [True, 1], "booleans are among the numbers, where INT32"),
        ("INT32", [1, True], "booleans are among the numbers, where INT32"),
        ("FP32", [1.5, False], "booleans are among the numbers, where FP32"),
        ("FP64", [[1.5], [True]], "booleans are among"),
        ("UINT64", [2**63, True], "booleans are among"),
        ("FP32", [0.5] * 300 + [True], "booleans are among"),
        ("FP64", [*([[0.5] * 60] * 20), [0.5] * 59 + [False]], "booleans are among"),
        ("INT8", [1] * 300 + [True], "booleans are among"),
        ("FP32", [True, False], "booleans are given"),
        ("BOOL", [0, 2], "BOOL"),
        ("BYTES", ["a", 1], "string"),
        ("BYTES", [["a"], ["b", "c"]], "differ in length"),
        ("FP32", [[1.0], [1.0, 2.0]], "differ in length"),
        ("FP32", [1.0, 2.0, 3.0], "needs 2 elements, and there are 3"),
        ("FP32", [], "there are 0"),
        ("FP32", [[1.0], [2.0]], "nested"),
        ("FP32", 5, "a list is expected"),
        ("BF16", [3.4e38, 2.0], "out of the range of BF16"),
        ("BF16", ["1", "2"], "BF16"),
    ],
)
def test_json_lies_are_refused(datatype: str, data: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        tensors.from_json(data, datatype, (2,), "x")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([-1], "not a size"),
        ([0, 4], "not a size"),
        ([True], "not a size"),
        ([1.0], "not a size"),
        ("4", "a list"),
        (None, "a list"),
        ([2**4, 2**60 + 2], "causes total element count to exceed maximum size of"),
        ([1] * 65, "dimensions"),
    ],
)
def test_shapes_that_are_none(shape: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        tensors.checked_shape(shape, "x")


def test_a_size_in_bytes_that_overflows() -> None:
    with pytest.raises(InvalidInput, match="byte size overflow for input"):
        tensors.checked_byte_size([2**61], "FP32", "x")


@pytest.mark.parametrize(
    ("raw", "count", "words"),
    [
        (b"", 1, "expecting 4 additional bytes"),
        (b"\x05\0\0\0ab", 1, "expecting 3 additional bytes"),
        (b"\xff\xff\xff\xffab", 1, "additional bytes"),
        (b"\x01\0\0\0a\x01\0\0\0b", 1, "number of string elements"),
        (b"\x01\0\0\0\xff", 1, "UTF-8"),
        (b"\x01\0\0\0a", 2**40, "additional bytes"),
    ],
)
def test_strings_with_wrong_lengths(raw: bytes, count: int, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        tensors.from_binary(memoryview(raw), "BYTES", (count,), "x", "m")


def test_booleans_are_zero_or_one() -> None:
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        tensors.from_binary(memoryview(b"\0\2"), "BOOL", (2,), "x", "m")


def test_classes_are_the_highest_first_with_labels() -> None:
    array = np.array([[0.1, 0.7, 0.2], [5.0, 5.0, 1.0]], np.float32)
    assert tensors.classify(array, "FP32", 2, ("a", "b"), per_row=True).tolist() == [
        ["0.700000:1:b", "0.200000:2"],
        ["5.000000:0:a", "5.000000:1:b"],
    ]
    whole = tensors.classify(np.array([3, 9, 4], np.int32), "INT32", 99, (), per_row=True)
    assert whole.tolist() == ["9:1", "4:2", "3:0"]
    with pytest.raises(InvalidInput, match="unsupported type 'BYTES'"):
        tensors.classify(np.array(["a"], object), "BYTES", 1, (), per_row=False)

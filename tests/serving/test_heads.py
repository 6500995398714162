"""A head that is repeated is not read again, and what stands behind it is looked at as closely as the first time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from studio.core.errors import InvalidInput
from studio.core.routing import Target
from studio.core.tensors import Signature, TensorSpec
from studio.serving.protocols import oip_heads, oip_infer


def target(datatype: str = "FP32") -> Target:
    specs = (TensorSpec("x", datatype, ("n", 2)), TensorSpec("mask", "BOOL", ("n",)))
    return taking(*specs)


def taking(*specs: TensorSpec) -> Target:
    return Target(model="m", version=1, variant="fp32", path="", sha256="", signature=Signature(specs, specs, False))


def request(data: bytes, mask: bytes, shape: tuple[int, ...] = (1, 2), **more: Any) -> tuple[bytes, dict[bytes, bytes]]:
    tensors = (("x", "FP32", shape, data), ("mask", "BOOL", shape[:1], mask))
    inputs = [
        {"name": name, "datatype": datatype, "shape": dims, "parameters": {"binary_data_size": len(raw)}}
        for name, datatype, dims, raw in tensors
    ]
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + data + mask, {oip_infer.HEADER_LENGTH: str(len(head)).encode()}


def row(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each head that was read."""
    seen: list[int] = []
    real = oip_infer._parse_document

    def counted(document: Any, binary: memoryview, target: Target) -> oip_infer.Call:
        seen.append(len(binary))
        return real(document, binary, target)

    monkeypatch.setattr(oip_infer, "_parse_document", counted)
    return seen


def test_a_head_is_read_once_and_its_tensors_each_time(reads: list[int]) -> None:
    to = target()
    more = {
        "parameters": {"timeout": 7, "priority": 2},
        "outputs": [{"name": "x", "parameters": {"binary_data": True}}],
    }
    for number in range(5):
        call = oip_infer.parse(*request(row(number, -1), b"\1", **more), to)
        np.testing.assert_array_equal(call.inputs["x"], [[number, -1]])
        np.testing.assert_array_equal(call.inputs["mask"], [True])
        assert (call.timeout_us, call.priority, call.outputs) == (7, 2, ("x",))
        assert call.wanted[0].binary and not call.all
    assert len(reads) == 1


def test_what_is_behind_a_known_head_is_still_checked(reads: list[int]) -> None:
    to = target()
    oip_infer.parse(*request(row(1, 2), b"\1"), to)
    body, headers = request(row(1, 2), b"\1")
    for wrong, words in (
        (body[:-1], "expecting 1 additional bytes"),
        (body + b"\0", "1 additional bytes behind the last input"),
        (body[:-1] + b"\2", "a byte other than 0 and 1"),
    ):
        with pytest.raises(InvalidInput, match=words):
            oip_infer.parse(wrong, headers, to)


def test_every_target_has_heads_of_its_own(reads: list[int]) -> None:
    oip_infer.parse(*request(row(1, 2), b"\1"), target())
    with pytest.raises(InvalidInput, match="data-type"):
        oip_infer.parse(*request(row(1, 2), b"\1"), target("FP64"))


@pytest.mark.parametrize("more", [{"id": "7"}, {"parameters": {"note": "x" * oip_heads.LONGEST}}], ids=["id", "long"])
def test_heads_that_differ_each_time_or_are_long_are_not_kept(reads: list[int], more: dict[str, Any]) -> None:
    to = target()
    for _ in range(3):
        assert oip_infer.parse(*request(row(1, 2), b"\1", **more), to).id == more.get("id", "")
    assert len(reads) == 3


def test_tensors_in_json_and_texts_are_read_each_time(reads: list[int]) -> None:
    to = taking(TensorSpec("x", "BYTES", ("n",)))
    for text in (b"ab", b"cd"):
        raw = len(text).to_bytes(4, "little") + text
        tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [tensor]}).encode()
        call = oip_infer.parse(head + raw, {oip_infer.HEADER_LENGTH: str(len(head)).encode()}, to)
        assert call.inputs["x"].tolist() == [text.decode()]
    both = target()
    for value in (1.5, 2.5):
        mask = {"name": "mask", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1}}
        inline = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, 0]}
        head = json.dumps({"inputs": [inline, mask]}).encode()
        call = oip_infer.parse(head + b"\0", {oip_infer.HEADER_LENGTH: str(len(head)).encode()}, both)
        assert call.inputs["x"].tolist() == [[value, 0]]
    assert len(reads) == 4


def test_only_so_many_are_kept(reads: list[int]) -> None:
    to = target()
    for number in range(2 * oip_heads.MOST):
        oip_infer.parse(*request(row(1, 2), b"\1", parameters={"note": number}), to)
    assert len(to.kept["oip heads"]) <= oip_heads.MOST

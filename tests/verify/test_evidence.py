"""Rows to calibrate with and rows to judge on."""

from __future__ import annotations

import numpy as np
import pytest

from studio.core.manifest import InputsKind
from studio.core.tensors import Signature, TensorSpec
from studio.verify.evidence import split
from studio.verify.inputs import LoadedSamples

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=("batch", 2)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=("batch", 2)),),
)


def samples(rows: int, kind: InputsKind = "labelled") -> LoadedSamples:
    numbers = np.arange(rows, dtype=np.float32)
    return LoadedSamples({"x": np.stack([numbers, numbers], 1)}, np.arange(rows), kind)


@pytest.mark.parametrize(("rows", "apart"), [(16, 8), (100, 50), (600, 150), (2000, 500)])
def test_no_row_is_on_both_sides_and_none_is_lost(rows: int, apart: int) -> None:
    found = split(samples(rows), "labelled", SIGNATURE)
    assert found.apart is not None and found.apart.labels is not None and found.judged.labels is not None
    chosen, judged = set(found.apart.labels.tolist()), set(found.judged.labels.tolist())
    assert (len(chosen), len(judged)) == (apart, rows - apart)
    assert chosen | judged == set(range(rows)) and not chosen & judged
    # The labels go with their rows, and a sorted file is not cut in two halves.
    assert found.apart.inputs["x"][:, 0].tolist() == found.apart.labels.tolist()
    assert max(chosen) > rows // 2 > min(chosen)


def test_the_same_rows_every_time() -> None:
    one, two = (split(samples(100), "samples", SIGNATURE) for _ in range(2))
    assert one.apart is not None and two.apart is not None
    assert np.array_equal(one.apart.inputs["x"], two.apart.inputs["x"])


@pytest.mark.parametrize(("rows", "kind"), [(15, "labelled"), (100, "synthetic")])
def test_nothing_is_set_apart_of_few_rows_and_of_made_up_ones(rows: int, kind: InputsKind) -> None:
    found = split(samples(rows, kind), kind, SIGNATURE)
    assert found.apart is None and len(found.judged.inputs["x"]) == rows


def test_a_fixed_batch_is_never_broken() -> None:
    fixed = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(8, 2)),), outputs=SIGNATURE.outputs)
    found = split(samples(64), "samples", fixed)
    assert found.apart is not None and len(found.apart.inputs["x"]) % 8 == 0

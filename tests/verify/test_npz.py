"""Sample files that lie about what is in them, and samples that say nothing."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.core.errors import InvalidInput
from studio.core.tensors import Signature, TensorSpec
from studio.verify.inputs import load_samples, valueless_notes, with_classes
from studio.verify.npz import check_npz, read_npz

TWO = Signature(
    inputs=(TensorSpec("a", "FP32", ("n", 2)), TensorSpec("b", "FP32", ("n", 1))),
    outputs=(TensorSpec("y", "FP32", ("n", 3)),),
)


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def packed(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refusal(path: Path) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        check_npz(path)
    assert caught.value.fix
    return caught.value


def test_an_array_that_claims_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", {"ok.npy": header((1,)) + bytes(4), "x.npy": header((2**40, 4))})
    error = refusal(path)
    assert "takes 17.6 TB; it has 0 bytes" in error.why
    plain = tmp_path / "plain.npz"
    plain.write_bytes(header((3, 4)) + bytes(47))
    assert "takes 48 bytes; it has 47 bytes" in refusal(plain).why
    plain.write_bytes(header((3, 4)) + bytes(48))
    assert read_npz(plain)["array"].shape == (3, 4)


def test_what_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(header((300 << 20,), "<u1"))
        for _ in range(300):
            member.write(bytes(1 << 20))
    error = refusal(path)
    assert "much larger than they seem" in error.what
    assert "314.6 MB" in error.why


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"notes.txt": b"hello"}, "'notes.txt' in it is no array"),
        ({"x.npy": header((-4, 3))}, "impossible shape"),
        ({"x.npy": b"\x93NUMPY\x09\x00" + bytes(40)}, "unknown version"),
        ({"x.npy": header((1,))[:20]}, "can not be read"),
        ({"x.npy": header((1,), "|O") + bytes(8)}, "Python objects"),
    ],
)
def test_what_is_no_array_is_told(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    assert words in str(refusal(packed(tmp_path / "x.npz", members)))


def test_every_kind_of_array_that_numpy_saves_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "scalar": np.float64(3),
        "none": np.zeros((0, 5), np.float32),
        "words": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "flags": np.array([True]),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "fields": np.zeros(2, [("größe", "<f4"), ("b", "<i8")]),
        "zeros": np.zeros((1000, 1000)),
    }
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_npz(tmp_path / "x.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_samples_without_a_single_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.full((3, 2), np.nan), b=np.full((3, 1), np.inf))
    with pytest.raises(InvalidInput, match="hold no number: every value of 'a', 'b' is NaN or infinite"):
        load_samples(path, TWO)


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    labels = np.arange(9.0)
    labels[[2, 7]] = np.nan, np.inf
    np.savez(path, a=np.ones((9, 2)), b=np.ones((9, 1)), labels=labels)
    with pytest.raises(InvalidInput, match="2 of the 9 labels are NaN or infinite") as caught:
        load_samples(path, TWO)
    assert caught.value.why == "Those of the rows 2, 7, counted from 0."


def test_an_input_without_a_single_number_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([[np.nan, 1], [2, 3]]), b=np.full((2, 1), np.nan))
    assert valueless_notes(load_samples(path, TWO)) == (
        "The sample inputs have no value for 'b': all are NaN or infinite.",
    )
    assert valueless_notes(None) == ()


def test_what_is_advised_is_python(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, wrong=np.zeros((2, 2)), more=np.zeros(2))
    names = ("in/put:0", "class", "b")
    odd = Signature(inputs=tuple(TensorSpec(name, "FP32", ("n", 2)) for name in names), outputs=TWO.outputs)
    with pytest.raises(InvalidInput) as caught:
        load_samples(path, odd)
    call = caught.value.fix.removeprefix("For example: ").removesuffix(".").replace("…", "1")
    given: dict[str, int] = {}
    eval(call, {"np": type("np", (), {"savez": lambda _, **arrays: given.update(arrays)})})
    assert set(given) == {*names, "labels"}


SCORES = {"y": np.array([[0.1, 0.7, 0.2]])}


def test_labels_that_are_no_class_are_left_out_and_said(tmp_path: Path) -> None:
    labels, notes = with_classes(np.full(20, 9), SCORES)
    assert labels is None
    assert "the labels of the samples are 9, but the model has 3 scores, the classes 0 to 2" in notes[0]
    some = np.array([0, 1, 2, 3, -1])
    labels, notes = with_classes(some, SCORES)
    assert labels is some
    assert "2 of 5 labels of the samples are none of its classes (-1, 3)" in notes[0]


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        (None, SCORES),
        (np.array([0, 2]), SCORES),
        (np.array([0.5, 9.5]), {"price": np.array([[7.2]])}),
        (np.array(["a", "b"]), SCORES),
        (np.array([7, 9]), {"label": np.array([7]), "probabilities": np.array([[0.1, 0.9]])}),
        (np.array([7, 9]), {"price": np.array([[7.2]])}),
        (np.array([700, 9]), {"embedding": np.ones((1, 64))}),
    ],
)
def test_labels_that_fit_or_are_no_classes_stay(labels: Any, outputs: dict[str, Any]) -> None:
    kept, notes = with_classes(labels, outputs)
    assert kept is labels
    assert notes == ()

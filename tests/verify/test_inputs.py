"""Sample inputs: what is read, what is refused and how, what is drawn, and how rows become runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import InvalidInput
from studio.core.rows import row_layout
from studio.core.tensors import Signature, TensorSpec
from studio.verify.inputs import draw_inputs, load_samples, rows_among, split_runs, take_rows

IMAGE = Signature(inputs=(TensorSpec("image", "FP32", ("batch", 1, 8, 8)),), outputs=())
TWO = Signature(
    inputs=(TensorSpec("ids", "INT64", ("batch", "seq")), TensorSpec("attention_mask", "INT64", ("batch", "seq"))),
    outputs=(),
)
FIXED = Signature(inputs=(TensorSpec("x", "FP32", (4, 3)),), outputs=())


def saved(tmp_path: Path, **arrays: np.ndarray) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, **arrays)
    return path


def test_samples_are_cast_to_the_models_types(tmp_path: Path) -> None:
    pixels = np.arange(3 * 64, dtype=np.float64).reshape(3, 1, 8, 8)
    found = load_samples(saved(tmp_path, image=pixels, labels=np.array([[1], [2], [3]])), IMAGE)
    assert found.inputs["image"].dtype == np.float32
    assert (found.kind, len(found.inputs["image"])) == ("labelled", 3)
    assert found.labels is not None and found.labels.tolist() == [1, 2, 3]


def test_bytes_of_an_image_become_floats_and_strings_become_text(tmp_path: Path) -> None:
    found = load_samples(saved(tmp_path, image=np.full((2, 1, 8, 8), 255, np.uint8)), IMAGE)
    assert found.inputs["image"].max() == 255.0 and found.kind == "samples" and found.labels is None
    words = Signature(inputs=(TensorSpec("text", "BYTES", ("batch",)),), outputs=())
    assert load_samples(saved(tmp_path, text=np.array(["a", "bc"])), words).inputs["text"].tolist() == ["a", "bc"]


def test_a_single_array_of_any_name_stands_for_the_only_input(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, np.zeros((5, 1, 8, 8), np.float32))
    assert list(load_samples(path, IMAGE).inputs) == ["image"]
    np.save(tmp_path / "one.npy", np.zeros((5, 1, 8, 8), np.float32))
    assert len(load_samples(tmp_path / "one.npy", IMAGE).inputs["image"]) == 5


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": np.zeros((2, 3), int)}, "takes ids, attention_mask; the file has ids"),
        ({"ids": np.zeros((2, 3), int), "mask": np.zeros((2, 3), int)}, "the file has ids, mask"),
        ({"ids": np.zeros(3, int), "attention_mask": np.zeros((2, 3), int)}, "'ids' has the shape"),
        ({"ids": np.zeros((2, 3), int), "attention_mask": np.zeros((2, 4), int)}, "'attention_mask' has the shape"),
        ({"ids": np.zeros((2, 3), int), "attention_mask": np.zeros((4, 3), int)}, "'attention_mask' has the shape"),
        ({"ids": np.full((2, 3), 0.5), "attention_mask": np.zeros((2, 3), int)}, "holds float64 values"),
        ({"ids": np.zeros((0, 3), int), "attention_mask": np.zeros((0, 3), int)}, "number of rows, or too few"),
        (
            {"ids": np.zeros((2, 3), int), "attention_mask": np.zeros((2, 3), int), "labels": np.zeros(3)},
            "one label for each of the 2 samples",
        ),
    ],
)
def test_samples_that_do_not_fit_are_refused_in_words(tmp_path: Path, arrays: dict, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_samples(saved(tmp_path, **arrays), TWO)
    assert words in str(caught.value)
    assert caught.value.fix


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (marker,))

    path = tmp_path / "evil.npz"
    np.savez(path, image=np.array([Payload()], dtype=object))
    with pytest.raises(InvalidInput, match=r"evil\.npz"):
        load_samples(path, IMAGE)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"hello"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="can not be read"):
        load_samples(path, IMAGE)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, image=np.zeros((5, 1, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InvalidInput, match="can not be read"):
        load_samples(path, IMAGE)


def test_drawn_inputs_fit_and_repeat_by_seed() -> None:
    first, again, other = (draw_inputs(TWO, 6, seed)["ids"] for seed in (1, 1, 2))
    assert first.shape == (6, 8) and first.dtype == np.int64
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert (draw_inputs(TWO, 6, 1)["attention_mask"] == 1).all()
    assert draw_inputs(IMAGE, 3, 0)["image"].shape == (3, 1, 8, 8)
    assert draw_inputs(FIXED, 6, 0)["x"].shape == (8, 3)  # whole runs of four
    bounded = draw_inputs(IMAGE, 50, 0, {"image": (0.0, 16.0)})["image"]
    assert bounded.min() >= 0 and 15 < bounded.max() <= 16


def test_every_datatype_can_be_drawn() -> None:
    from studio.core.tensors import DATATYPES

    for datatype in DATATYPES:
        signature = Signature(inputs=(TensorSpec("x", datatype, ("?", 2)),), outputs=())
        drawn = draw_inputs(signature, 3, 0)["x"]
        assert drawn.shape == (3, 2) and drawn.dtype.name == DATATYPES[datatype][0]


def test_rows_become_runs() -> None:
    inputs = draw_inputs(TWO, 7, 0)
    assert [len(feed["ids"]) for feed in split_runs(TWO, inputs, 3)] == [3, 3, 1]
    assert len(split_runs(TWO, inputs)) == 7
    assert [len(feed["x"]) for feed in split_runs(FIXED, {"x": np.zeros((10, 3), np.float32)})] == [4, 4]


def test_what_has_no_rows_runs_whole() -> None:
    state = Signature(
        inputs=(TensorSpec("x", "FP32", ("batch", 3)), TensorSpec("h", "FP32", (2, "batch", 4))), outputs=()
    )
    inputs = draw_inputs(state, 5, 0)
    assert inputs["h"].shape == (2, 5, 4)
    assert split_runs(state, inputs) == [inputs]
    beside = Signature(inputs=(TensorSpec("x", "FP32", ("n", 3)), TensorSpec("rate", "INT64", ())), outputs=())
    runs = split_runs(beside, draw_inputs(beside, 2, 0))
    assert [feed["rate"].shape for feed in runs] == [(), ()]


def test_rows_that_are_given_are_taken_as_they_come() -> None:
    signature = Signature((TensorSpec("x", "FP32", ("batch", 2)), TensorSpec("city", "BYTES", ("batch", 1))), ())
    rows = np.arange(6.0).reshape(3, 2)
    towns = np.asarray([["Bern"], ["Chur"]], dtype=object)
    drawn = draw_inputs(signature, 5, 0, {"x": rows, "city": towns})
    assert drawn["x"].dtype == np.float32
    assert drawn["x"][:, 0].tolist() == [0, 2, 4, 0, 2]
    assert drawn["city"].ravel().tolist() == ["Bern", "Chur", "Bern", "Chur", "Bern"]


def test_rows_are_counted_once_however_often_they_were_run() -> None:
    layout = row_layout(IMAGE)
    assert layout is not None
    samples, others = draw_inputs(IMAGE, 20, 1), draw_inputs(IMAGE, 5, 2)
    feeds = [take_rows(layout, samples, 0, 8), take_rows(layout, samples, 3, 8), others]
    assert rows_among(layout, samples, feeds) == 11
    assert rows_among(layout, others, feeds[:2]) == 0

"""Damaged ONNX files of every age: taken, or refused in words, and nothing else."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import StudioError
from tests.formats.graphs import convolutional, outside, weights
from tests.pipeline.inprocess import take_in
from tests.pipeline.test_intake_onnx_interface import pair, zip_map

WHOLE = [
    convolutional(6, 3).SerializeToString(),
    convolutional(9, 4).SerializeToString(),
    convolutional(28, 14).SerializeToString(),
    zip_map(9, classlabels_strings=list("abcd")).SerializeToString(),
    pair(11).SerializeToString(),
    outside("w.bin").SerializeToString(),
]
# Bytes that change what a field is, what it counts, or what it is called.
BYTES = st.sampled_from([0x00, 0x01, 0x0A, 0x12, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)


@settings(max_examples=120, deadline=None)
@given(whole=st.sampled_from(WHOLE), edits=st.lists(st.tuples(st.floats(0, 1), BYTES), min_size=1, max_size=4))
def test_a_damaged_file_is_taken_or_refused_in_words(whole: bytes, edits: list[tuple[float, int]]) -> None:
    data = bytearray(whole)
    for place, byte in edits:
        data[min(int(place * len(data)), len(data) - 1)] = byte
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "w.bin").write_bytes(weights().tobytes())
        (folder / "model.onnx").write_bytes(bytes(data))
        take_in(folder / "model.onnx", folder / "w.bin")
    except StudioError as error:
        assert error.what
        assert error.why or error.fix
    finally:
        shutil.rmtree(folder)

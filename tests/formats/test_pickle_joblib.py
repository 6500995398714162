"""Files of joblib: arrays lie between the instructions, and are stepped over without being believed."""

from __future__ import annotations

import decimal
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joblib import numpy_pickle

from studio.core.errors import InvalidInput
from studio.formats.pickles.screen import (
    screen_pickle,
)
from tests.formats.pickles import dumped, looked_up, names, of_today, screened, stream

QUICK = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


ARRAYS = st.builds(
    lambda kind, shape, fortran: np.ones(shape, kind, order="F" if fortran else "C"),
    st.sampled_from(["f8", ">f4", "i1", "u2", "?", "U3", "S5", "c8", "M8[D]", "V6", "O", "f8,i1", [("a", "f4", (2,))]]),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.booleans(),
)


@QUICK
@given(arrays=st.lists(ARRAYS | st.text(max_size=4), max_size=5), protocol=st.integers(0, 5))
def test_arrays_that_joblib_writes_are_stepped_over(arrays: list[Any], protocol: int) -> None:
    data = dumped({"arrays": arrays, "again": arrays[:1], "name": decimal.Decimal(1)}, protocol=protocol)

    class Reading(numpy_pickle.NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            looked.add((module, name))
            return super().find_class(module, name)

    looked: set[tuple[str, str]] = set()
    Reading("", io.BytesIO(data), ensure_native_byte_order=True).load()
    file = io.BytesIO(data + b"rest")
    seen = screen_pickle(file, "the file", arrays=True)
    assert {of_today(name) for name in names(seen)} == {of_today(name) for name in looked}
    assert file.read() == b"rest"
    assert not seen.oddities


def test_bytes_of_an_array_are_no_instructions() -> None:
    data = dumped(np.frombuffer(stream(looked_up("os", "system")), np.uint8))
    assert ("os", "system") not in names(screened(data, arrays=True))


def test_objects_of_an_array_are_looked_at() -> None:
    data = dumped({"x": np.array([decimal.Decimal(1), None], dtype=object), "y": np.ones(3)})
    assert ("decimal", "Decimal") in names(screened(data, arrays=True))


def test_an_array_that_is_described_otherwise_is_refused() -> None:
    """Or instructions could stand where only bytes are expected, and the other way round."""
    data = dumped(np.ones(3))
    for old, new in (
        (b"numpy_array_alignment_bytes", b"numpy_array_alignment_bytez"),
        (b"K\x03\x85", b"K\x63\x85"),  # more rows than there are
        (b"\x8c\x02f8", b"\x8c\x02g8"),
    ):
        assert old in data
        with pytest.raises(InvalidInput, match="damaged"):
            screened(data.replace(old, new), arrays=True)


def test_old_files_of_joblib_are_told_in_words() -> None:
    old = dumped(np.ones(3)).replace(b"NumpyArrayWrapper", b"NDArrayWrapper\0\0\0")
    old = old.replace(b"\x8c\x11NDArrayWrapper\0\0\0", b"\x8c\x0eNDArrayWrapper").replace(b"\x95", b"\x95", 1)
    unframed = b"\x80\x04" + old[11:]
    with pytest.raises(InvalidInput, match=r"joblib before 0\.10") as caught:
        screened(unframed, arrays=True)
    assert "joblib 1.2 or newer" in caught.value.fix

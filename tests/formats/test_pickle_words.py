"""What is said of pickles that no format takes: data is called data, and a call is named and never run."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path

import pandas
import pytest

from studio.core.errors import Refused
from studio.formats.base import ArrivalFiles
from studio.formats.registry import recognise
from tests.hostile.place import Call


def refusal(path: Path, value: object) -> Refused:
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(Refused) as caught:
        recognise(ArrivalFiles.of((path,)))
    return caught.value


@pytest.mark.parametrize("value", [pandas.DataFrame({"a": [1.0]}), pandas.Series([1, 2])])
def test_tables_are_data_and_no_model(tmp_path: Path, value: object) -> None:
    said = refusal(tmp_path / "table.pkl", value)
    assert f"a pickle of data, a table or column of pandas ({type(value).__name__}), which is no model" in said.what
    assert "fitted estimator" in said.fix and "yet" not in said.what


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (Call(os.system, "true"), f"{os.system.__module__}.system"),
        (Call(builtins.eval, "1"), "builtins.eval"),
    ],
)
def test_a_pickle_that_is_nothing_but_a_call_is_refused_by_its_name(tmp_path: Path, call: Call, named: str) -> None:
    said = refusal(tmp_path / "evil.pkl", call)
    assert f"a pickle that calls {named} when it is loaded, which is no model" in said.what
    assert "nothing to say yes to" in said.fix


def test_a_harmless_value_is_no_call(tmp_path: Path) -> None:
    assert "gives when it is called" in refusal(tmp_path / "complex.pkl", 1j).what

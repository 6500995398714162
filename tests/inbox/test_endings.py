"""Model files as frameworks write them: whole they are complete, and cut short they are waited for."""

from __future__ import annotations

import gzip
import pickle
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.inbox.complete import is_complete
from studio.inbox.groups import Group, Stamp
from studio.inbox.settle import Settler

MODEL = {"weights": np.random.default_rng(0).normal(size=(40, 30)), "names": ["a", "b"], "bias": 0.25}
ROWS = np.random.default_rng(1).normal(size=(60, 3))
TARGETS = (ROWS[:, 0] > 0).astype(int)


def pickled(path: Path, protocol: int) -> Path:
    path = path / f"p{protocol}.pkl"
    path.write_bytes(pickle.dumps(MODEL, protocol=protocol))
    return path


def dumped(path: Path, compress: object) -> Path:
    import joblib

    path = path / "model.joblib"
    joblib.dump(MODEL, path, compress=compress)
    return path


def hdf5(path: Path, version: str) -> Path:
    import h5py

    path = path / "model.h5"
    with h5py.File(path, "w", libver=version) as file:
        file["w"] = MODEL["weights"]
    return path


def xgboost(path: Path, suffix: str) -> Path:
    import xgboost as xgb

    path = path / f"model{suffix}"
    xgb.XGBClassifier(n_estimators=3).fit(ROWS, TARGETS).save_model(path)
    return path


def lightgbm(path: Path) -> Path:
    import lightgbm as lgb

    path = path / "model.txt"
    lgb.LGBMClassifier(n_estimators=3, verbose=-1, num_threads=1).fit(ROWS, TARGETS).booster_.save_model(path)
    return path


def catboost(path: Path) -> Path:
    import catboost as cb

    made = cb.CatBoostClassifier(iterations=3, verbose=False, thread_count=1, allow_writing_files=False)
    made.fit(ROWS, TARGETS).save_model(str(path / "model.cbm"))
    return path / "model.cbm"


WRITERS: dict[str, Callable[[Path], Path]] = {
    **{f"pickle protocol {number}": partial(pickled, protocol=number) for number in (2, 3, 4, 5)},
    "joblib": lambda path: dumped(path, 0),
    "joblib, zlib": lambda path: dumped(path, 3),
    "joblib, gzip": lambda path: dumped(path, ("gzip", 3)),
    "joblib, bz2": lambda path: dumped(path, ("bz2", 3)),
    "joblib, xz": lambda path: dumped(path, ("xz", 3)),
    "HDF5": lambda path: hdf5(path, "earliest"),
    "HDF5, latest": lambda path: hdf5(path, "latest"),
    "XGBoost JSON": lambda path: xgboost(path, ".json"),
    "XGBoost UBJSON": lambda path: xgboost(path, ".ubj"),
    "LightGBM": lightgbm,
    "CatBoost": catboost,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_model_is_complete_when_its_end_is_there(tmp_path: Path, kind: str) -> None:
    whole = WRITERS[kind](tmp_path)
    assert is_complete(whole)
    data, cut = whole.read_bytes(), whole.with_name(f"cut{whole.suffix}")
    # By chance one cut in 256 ends like a pickle.
    end = {b"tree": data.find(b"\nend of trees"), b"CBM1": 8 + int.from_bytes(data[4:8], "little")}.get(
        data[:4], len(data)
    )
    places = [round(share * (end - 1)) for share in np.linspace(0.05, 1, 40)]
    taken = []
    for place in places:
        cut.write_bytes(data[:place])
        taken += [place] if is_complete(cut) else []
    assert len(taken) <= 2, taken


def test_a_file_saved_by_an_old_torch_ends_with_its_tensors(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert (tmp_path / "old.pt").read_bytes()[-1:] != b"."
    assert is_complete(tmp_path / "old.pt")


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_a_bomb_is_left_to_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr("studio.inbox.endings._MOST_UNPACKED", 1_000_000)
    bomb = tmp_path / "bomb.joblib"
    bomb.write_bytes(pack(bytes(5_000_000))[:-20])
    assert is_complete(bomb)
    bomb.write_bytes(pack(bytes(900_000))[:-20])
    assert not is_complete(bomb)


@given(
    st.sampled_from(
        [b"\x80\x04\x95", b"CBM1", b"tree\n", b"\x89HDF\r\n\x1a\n", b"\x78\x9c", b"\x1f\x8b\x08", b"{", b""]
    ),
    st.binary(max_size=100),
)
def test_no_content_raises(tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for suffix in (".joblib", ".json", ".ubj", ".h5", ".txt"):
        path = folder / f"m{suffix}"
        path.write_bytes(start + rest)
        assert is_complete(path) in (True, False)


def grown(*sizes: int, inode: int = 1) -> dict[str, Group]:
    return {"m": Group("m", tuple(Stamp(f"m{n}.bin", size, size, inode) for n, size in enumerate(sizes)))}


def test_what_grows_in_steps_is_waited_for_by_its_steps() -> None:
    settler = Settler(0.5, 20)
    settler.observe(grown(10), 0.0)
    settler.observe(grown(20), 0.7)
    assert not settler.due(2.0)
    assert settler.due(2.11)


@pytest.mark.parametrize(
    "after", [grown(5), grown(20, inode=2), grown(20, 20), grown(10, inode=3)], ids=["less", "other", "more", "swapped"]
)
def test_what_is_replaced_settles_as_quickly_as_ever(after: dict[str, Group]) -> None:
    settler = Settler(0.5, 20)
    settler.observe(grown(10), 0.0)
    settler.observe(after, 0.7)
    assert settler.due(1.21)


def test_what_grows_long_afterwards_settles_as_quickly_as_ever() -> None:
    settler = Settler(0.5, 20)
    settler.observe(grown(10), 0.0)
    settler.observe(grown(20), 60.0)
    assert settler.due(60.51)

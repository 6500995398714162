"""Random corruption: whatever a file has become, it is taken, refused, or its worker dies alone, always with words."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.core.errors import StudioError
from studio.formats.base import ArrivalFiles
from studio.formats.boosters import _catboost_file, _lightgbm_file, _xgboost_file
from studio.formats.registry import recognise
from tests.hostile.place import ANY, Attack, drop
from tests.hostile.seeds import SEEDS
from tests.hostile.test_corpus import SECONDS, withstand


def corrupted(data: bytes, generator: random.Random) -> bytes:
    """The data cut, with bytes changed, removed, repeated, or exchanged for those that often mean something."""
    out = bytearray(data)
    way = generator.randrange(6)
    if way == 0:
        del out[generator.randrange(len(out)) :]
    elif way == 1:
        start = generator.randrange(len(out))
        del out[start : start + generator.choice((1, 4, 100, 2000))]
    elif way == 2:
        start = generator.randrange(len(out))
        part = out[start : start + generator.choice((1, 8, 500))]
        out[start:start] = part * generator.choice((1, 3))
    elif way == 3:
        digits = [place for place, byte in enumerate(out) if 48 <= byte < 58] or [0]
        for _ in range(generator.choice((1, 4))):
            out[generator.choice(digits)] = generator.randrange(48, 58)
    else:
        for _ in range(generator.choice((1, 3, 30))):
            telling = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
            out[generator.randrange(len(out))] = telling
    return bytes(out)


def many(default: int) -> int:
    """How many corruptions of each format to try: `default`, or what STUDIO_FUZZ says."""
    return int(os.environ.get("STUDIO_FUZZ", default))


_READERS: dict[str, Callable[[Path], object]] = {
    "xgboost-json": lambda path: _xgboost_file.read(path, binary=False),
    "xgboost-ubj": lambda path: _xgboost_file.read(path, binary=True),
    "lightgbm": _lightgbm_file.read,
    "catboost": _catboost_file.check,
}


@pytest.mark.parametrize("name", _READERS)
def test_what_is_read_before_the_library_fails_in_words_alone(tmp_path: Path, name: str) -> None:
    """These readers stand between damaged files and libraries that crash on them."""
    whole = SEEDS[name](tmp_path).read_bytes()
    generator = random.Random(11)
    path, refused = tmp_path / "corrupted", 0
    for _ in range(many(60)):
        path.write_bytes(corrupted(whole, generator))
        try:
            _READERS[name](path)
        except StudioError as error:
            assert error.what and error.why and error.fix
            refused += 1
    assert refused > many(60) / 3


@pytest.mark.parametrize("name", ["onnx", "xgboost-ubj", "lightgbm", "catboost", "zip", "tar", "pickle"])
def test_recognising_fails_in_words_alone(tmp_path: Path, name: str) -> None:
    whole = SEEDS[name](tmp_path).read_bytes()
    generator = random.Random(12)
    path = tmp_path / "corrupted.bin"
    for _ in range(many(30)):
        path.write_bytes(corrupted(whole, generator))
        try:
            recognise(ArrivalFiles.of((path,)))
        except StudioError as error:
            assert error.what


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SEEDS)
def test_an_engine_withstands_corrupted_files(tmp_path: Path, name: str) -> None:
    seed = SEEDS[name](tmp_path)
    whole, ending = seed.read_bytes(), "".join(seed.suffixes)
    generator = random.Random(f"{name} {os.environ.get('STUDIO_FUZZ_SEED', '')}")
    attacks = tuple(
        Attack(f"fuzz-{number}", drop(ending, corrupted(whole, generator)), ANY) for number in range(many(12))
    )
    withstand(tmp_path / "siege", attacks, SECONDS)

"""`digits.toml`: what is understood, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.core.errors import InvalidInput
from studio.formats.settings_file import InputSettings, ModelSettings, read_settings


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "digits.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_all_keys_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'title = "Digits"\ndescription = "8 × 8"\ntags = ["vision"]\nclass_labels = ["0", "1"]\n'
        "[inputs.image]\nshape = ['batch', 3, 224, 224]\nrange = [0, 1]\n",
    )
    assert read_settings(path) == ModelSettings(
        title="Digits",
        description="8 × 8",
        tags=("vision",),
        class_labels=("0", "1"),
        inputs={"image": InputSettings(shape=("batch", 3, 224, 224), range=(0.0, 1.0))},
    )


def test_without_a_file_there_are_defaults() -> None:
    assert read_settings(None) == ModelSettings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('title = "a"\ntitle ?= 3\n', "line 2"),
        ("titel = 'a'\n", "'titel'"),
        ("title = 3\n", "$.title"),
        ("class_labels = ['a', 2]\n", "$.class_labels[1]"),
        ("[inputs.x]\nshape = [1, 2.5]\n", "$.inputs"),
        ("[inputs.x]\nshape = [1, 0]\n", "inputs.x"),
        (b"title = '\xff'\n", "UTF-8"),
    ],
)
def test_a_mistake_is_told_with_file_and_place(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_settings(written(tmp_path, text))
    assert "digits.toml" in caught.value.what
    assert words in str(caught.value)

"""From encoded images to tensors, as the settings of a model say it."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.core.errors import InvalidInput
from studio.core.preprocessing import Preprocessing
from studio.core.tensors import TensorSpec
from studio.serving.images import decoded


def test_an_enormous_image_is_refused_before_it_is_unpacked() -> None:
    out = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(out, "PNG")
    spec = TensorSpec("image", "FP32", ("batch", 3, 4, 4))
    with pytest.raises(InvalidInput, match="9000 × 9000 pixels"):
        decoded(out.getvalue(), spec, Preprocessing(kind="image"))


def tiff_of_12_bits(*values: int) -> bytes:
    """One row of greys from 0 to 4095, two of them in three bytes, as microscopes write them."""
    bits = "".join(f"{value:012b}" for value in values)
    data = bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))
    tags = {256: len(values), 257: 1, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


def grey(kind: str, values: Any, **options: Any) -> bytes:
    """An encoded image of one row of greys."""
    out = io.BytesIO()
    Image.fromarray(np.array([values])).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        grey("PNG", np.array([0, 128 * 257, 65535], np.uint16)),
        grey("TIFF", np.array([0, 128 * 257, 65535], np.uint16)),
        grey("TIFF", np.array([0, 128 * 257, 65535], ">u2")),
        grey("TIFF", np.array([65535, 127 * 257, 0], np.uint16), tiffinfo={262: 0}),
        tiff_of_12_bits(0, 2056, 4095),
        b"P5\n3 1\n255\n\x00\x80\xff",
        b"P5\n3 1\n1000\n\x00\x00\x01\xf6\x03\xe8",
    ],
    ids=["png", "tiff", "big-endian tiff", "tiff with white at 0", "tiff of 12 bits", "pgm", "pgm of 1000 greys"],
)
@pytest.mark.parametrize("channels", ["grey", "RGB"])
def test_greys_of_16_bits_are_the_greys_that_they_are(body: bytes, channels: Any) -> None:
    depth = 1 if channels == "grey" else 3
    spec = TensorSpec("image", "UINT8", ("batch", 1, 3, depth))
    how = Preprocessing(kind="image", channels=channels, layout="NHWC", interpolation="nearest")
    assert decoded(body, spec, how)[0, 0].tolist() == [[0] * depth, [128] * depth, [255] * depth]


@pytest.mark.parametrize("datatype", [np.int32, np.float32])
def test_images_without_a_known_white_are_refused(datatype: Any) -> None:
    spec = TensorSpec("image", "UINT8", ("batch", 1, 3, 1))
    with pytest.raises(InvalidInput, match="32 bits a pixel"):
        decoded(grey("TIFF", np.zeros(3, datatype)), spec, Preprocessing(kind="image", channels="grey", layout="NHWC"))


HALVES = Image.new("RGB", (8, 4), (0, 0, 255))
HALVES.paste((255, 0, 0), (0, 0, 4, 4))


@pytest.mark.parametrize(
    ("how", "shape", "expected"),
    [
        (Preprocessing(kind="image"), (3, 1, 2), [255, 0, 0, 0, 0, 255]),
        (Preprocessing(kind="image", channels="BGR"), (3, 1, 2), [0, 255, 0, 0, 255, 0]),
        (Preprocessing(kind="image", layout="NHWC"), (1, 2, 3), [255, 0, 0, 0, 0, 255]),
        (Preprocessing(kind="image", channels="grey", layout="NHW"), (1, 2), [76, 29]),
        (Preprocessing(kind="image", scale=1 / 255, mean=(0.5,), std=(0.5,)), (3, 1, 2), [1, -1, -1, -1, -1, 1]),
        (Preprocessing(kind="image", mean=(255, 0, 0), std=(1, 1, 5)), (3, 1, 2), [0, -255, 0, 0, 0, 51]),
    ],
)
def test_pixels_become_what_the_settings_say(how: Preprocessing, shape: tuple[int, ...], expected: list[float]) -> None:
    out = io.BytesIO()
    HALVES.save(out, "PNG")
    spec = TensorSpec("image", "FP32", ("batch", *shape))
    array = decoded(out.getvalue(), spec, Preprocessing(**{**how.__dict__, "interpolation": "nearest"}))
    assert array.shape == (1, *shape)
    np.testing.assert_allclose(array.ravel(), expected, atol=1)


def test_proportions_are_kept_or_not() -> None:
    out = io.BytesIO()
    HALVES.save(out, "PNG")
    spec = TensorSpec("image", "UINT8", ("batch", 4, 4, 3))

    def made(resize: Any) -> Any:
        return decoded(out.getvalue(), spec, Preprocessing(kind="image", layout="NHWC", resize=resize))

    assert made("crop").dtype == np.uint8
    assert made("pad")[0, 0].tolist() == [[0, 0, 0]] * 4  # the bar above
    assert made("stretch")[0, 0, 0].tolist()[0] > 200
    assert {tuple(pixel) for pixel in made("crop")[0, 0, ::3].tolist()} == {(255, 0, 0), (0, 0, 255)}

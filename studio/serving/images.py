"""From an encoded image to a model's input, as a version's settings say it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, NeedsExtra, Refused
from studio.core.preprocessing import Preprocessing
from studio.core.tensors import TensorSpec
from studio.serving.loaded import Array, dtype_of

MAX_PIXELS = 64_000_000
"""Images with more are refused before they are unpacked: a small file can hold an enormous one."""
SEND = "Send PNG, JPEG, WebP, GIF, BMP or TIFF."
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_PART = 2**20
_MODES = {"RGB": "RGB", "BGR": "RGB", "grey": "L"}


def is_image(body: bytes) -> bool:
    """Whether bytes begin as an image of a kind that is decoded here."""
    if body.startswith(_MAGIC) or (body[:4] == b"RIFF" and body[8:12] == b"WEBP"):
        return True
    return body[:2] == b"BM" and body[6:10] == b"\0\0\0\0"  # reserved in BMP; words may begin so too


def size_of(spec: TensorSpec, how: Preprocessing) -> tuple[int, int]:
    """Height and width that the input takes. Raises Refused where neither settings nor signature say it."""
    if how.size is not None:
        return how.size
    places = {"NCHW": (2, 3), "NHWC": (1, 2), "NHW": (1, 2)}[how.layout]
    sides = [spec.shape[place] for place in places] if len(spec.shape) == len(how.layout) else []
    if len(sides) == 2 and isinstance(sides[0], int) and isinstance(sides[1], int):
        return sides[0], sides[1]
    raise Refused(
        f"How large images for '{spec.name}' are is not known.",
        f"The input is {spec.describe()}, and its layout is said to be {how.layout}.",
        f"Set size = [height, width] under [preprocessing.{spec.name}], and drop the model again.",
    )


def decoded(body: bytes, spec: TensorSpec, how: Preprocessing) -> Array:
    """The image as a batch of one. May take long: not for the event loop.

    Raises InvalidInput for what is no image or too large a one, Refused, NeedsExtra.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise NeedsExtra("Decoding images needs Pillow.", "image") from error
    height, width = size_of(spec, how)
    try:
        with Image.open(io.BytesIO(body)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise InvalidInput(f"The image has {opened.width} × {opened.height} pixels.", "", "Send a smaller one.")
            # What a camera notes beside the pixels says which way is up.
            image: Any = _eight_bits(ImageOps.exif_transpose(opened), opened).convert(_MODES[how.channels])
    except InvalidInput:
        raise
    except UnidentifiedImageError:  # its words name an object in memory
        raise InvalidInput(
            "The image can not be decoded.", "It is damaged, or of a kind that is not known here.", SEND
        ) from None
    except Exception as error:  # decoders raise anything
        raise InvalidInput("The image can not be decoded.", f"{str(error)[:200]}.", SEND) from None
    filters = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
    resample = filters.get(how.interpolation, Image.Resampling.BILINEAR)
    if how.resize == "crop":
        image = ImageOps.fit(image, (width, height), resample)
    elif how.resize == "pad":
        image = ImageOps.pad(image, (width, height), resample)
    else:
        image = image.resize((width, height), resample)
    pixels = np.asarray(image, dtype=np.float32)
    if how.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    return _normalised(pixels, spec, how)


def _eight_bits(image: Any, opened: Any) -> Any:
    """The image with 0 to 255 a channel; Pillow itself would cut greys of 16 bits off at 255. Raises InvalidInput."""
    if not image.mode.startswith(("I", "F")):
        return image
    if not image.mode.startswith("I;16") and not (image.mode == "I" and opened.format in ("PNG", "PPM")):
        raise InvalidInput(
            "The image has 32 bits a pixel.",
            "Which of its values is white is not known.",
            "Send it with 8 or 16 bits, or the numbers.",
        )
    from PIL import Image

    # TIFF 6.0, tags 258 (BitsPerSample: 12 come unscaled) and 262 (0: white is zero).
    tags = getattr(opened, "tag_v2", {})
    white = 2 ** int(tags.get(258, (16,))[0]) - 1
    black_and_white = (255, 0) if tags.get(262) == 0 else (0, 255)
    pixels = np.asarray(image)
    flat, grey = pixels.ravel(), np.empty(pixels.size, np.uint8)
    for start in range(0, len(flat), _PART):  # floats of all of it would take many times the memory
        part = slice(start, start + _PART)
        grey[part] = np.rint(np.interp(flat[part], (0, white), black_and_white))
    return Image.fromarray(grey.reshape(pixels.shape))


def _normalised(pixels: Array, spec: TensorSpec, how: Preprocessing) -> Array:
    array: Array = pixels * np.float32(how.scale)
    if how.mean:
        array = array - np.array(how.mean if len(how.mean) > 1 else how.mean[0], np.float32)
    if how.std:
        array = array / np.array(how.std if len(how.std) > 1 else how.std[0], np.float32)
    if how.layout == "NCHW":
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    elif how.layout == "NHWC" and array.ndim == 2:
        array = array[:, :, None]
    dtype = dtype_of(spec.datatype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    return np.ascontiguousarray(array[None].astype(dtype))

"""Files of images, decoded and written by Pillow. The only file that imports it.

A file becomes (height, width, 3) uint8, red, green, blue, as people see it: turned as its EXIF orientation says. Grey is the same value
in all three colours; 16 bits are rounded to 8; CMYK is converted; of an animation the first picture is taken. Transparency is left
out, as OpenCV does it for mmcls: the colours below it are used.

Only formats whose decoders are part of Pillow are tried: others (EPS) would run a program.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError, ImageError

Pixels = NDArray[np.uint8]  # (height, width, 3)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 1 << 26  # 8192 x 8192: 192 MiB decoded
MAX_FILE = 1 << 29  # bytes; no file of MAX_PIXELS needs as many


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """(height, width, 3) uint8. Raises ImageError for a file that is missing or no image, and ConfigError without Pillow."""
    name = os.fspath(path)
    try:
        if os.path.getsize(path) > MAX_FILE:
            raise ImageError(f"{name}: a file of an image has at most {MAX_FILE >> 20} MiB; this one has {os.path.getsize(path) >> 20}")
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: {'there is no such file' if isinstance(error, FileNotFoundError) else error.strerror}") from None
    return decode_image(data, name)


def decode_image(data: bytes, name: str) -> Pixels:
    """The bytes of a file; `name` is for messages. Raises as `read_image` does."""
    pillow = _pillow()
    if not data:
        raise ImageError(f"{name}: an image must have data; this file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, which have a limit here, and of odd metadata, which is not used
            with pillow.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"{name}: an image may have at most {MAX_PIXELS:,} pixels; this one has {image.width} x {image.height}. "
                        "Make it smaller first."
                    )
                image.load()
                return _colours(_upright(image), name)
    except ImageError:
        raise
    except pillow.UnidentifiedImageError:
        raise ImageError(f"{name}: this is not an image in a format that can be read: {', '.join(FORMATS)}") from None
    except pillow.DecompressionBombError:
        raise ImageError(f"{name}: an image may have at most {MAX_PIXELS:,} pixels; this one has many more") from None
    except Exception as error:  # seven decoders, each with its own exceptions for damaged data
        raise ImageError(f"{name}: the image is truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})") from None


def png_bytes(pixels: Pixels) -> bytes:
    """A PNG of (height, width, 3) uint8 pixels. Raises ConfigError without Pillow."""
    buffer = io.BytesIO()
    _pillow().fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def word(text: str, size: int, colour: tuple[int, int, int], ground: tuple[int, int, int]) -> Pixels:
    """A line of text, `size` pixels high, on a plate of the colour `ground`, in Pillow's own font. Raises ConfigError without Pillow.

    Where Pillow was built without FreeType, its font has one size and only the letters of Latin-1.
    """
    pillow = _pillow()
    from PIL import ImageDraw, ImageFont

    try:
        font: Any = ImageFont.load_default(size)
    except (ImportError, OSError):
        font, text = ImageFont.load_default(), text.encode("latin-1", "replace").decode("latin-1")
    left, top, right, bottom = font.getbbox(text)
    margin = max(1, size // 6)
    plate = pillow.new("RGB", (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin), ground)
    ImageDraw.Draw(plate).text((margin - left, margin - top), text, colour, font=font)
    return np.array(plate)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("files of images are read by the Pillow package; install it: pip install 'rwkv-hybridquant[images]'") from None
    return Image


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data is often damaged: the image is then as its pixels are
        return image


def _colours(image: Any, name: str) -> Pixels:
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{name}: pixels must be whole numbers of 8 or 16 bits; these are {'fractions' if image.mode == 'F' else 'not'}"
            )
        grey = ((values.astype(np.int64) + 128) // 257).astype(np.uint8)  # 65535 becomes 255
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.array(image.convert("RGB"))

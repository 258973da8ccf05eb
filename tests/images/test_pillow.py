"""Files of all kinds become the same array; a damaged one becomes one sentence."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rwkvquant.errors import ConfigError, ImageError
from rwkvquant.images import png_bytes, read_image
from rwkvquant.images.pillow import decode_image
from tests.images.files import encoded, random_image

IMAGE = random_image()
GREY = np.repeat(IMAGE[..., :1], 3, -1)


@pytest.mark.parametrize("kind, most", [("PNG", 0), ("BMP", 0), ("PPM", 0), ("TIFF", 0), ("JPEG", 40), ("WEBP", 60), ("GIF", 60)])
def test_every_format_gives_the_pixels(kind: str, most: int) -> None:
    result = decode_image(encoded(IMAGE, kind), "x")
    assert result.shape == IMAGE.shape and result.dtype == np.uint8
    assert np.abs(result.astype(int) - IMAGE).max() <= most


def test_grey_has_the_same_value_in_all_colours() -> None:
    np.testing.assert_array_equal(decode_image(encoded(IMAGE[..., 0], "PNG"), "x"), GREY)


def test_16_bits_are_rounded_to_8() -> None:
    wide = IMAGE[..., 0].astype(np.uint16) * 257
    for kind in ("PNG", "TIFF"):
        for offset in (0, 128):  # half a step more is still nearest to the same value, except above the last
            values = np.minimum(wide.astype(int) + offset, 65535).astype(np.uint16)
            np.testing.assert_array_equal(decode_image(encoded(values, kind), "x"), GREY)


def test_black_and_white_and_palettes_are_read() -> None:
    bits = IMAGE[..., 0] > 127
    np.testing.assert_array_equal(decode_image(encoded(bits, "PNG"), "x")[..., 1], bits * 255)
    few = Image.fromarray(IMAGE).quantize(8)
    np.testing.assert_array_equal(decode_image(encoded(few, "PNG"), "x"), np.asarray(few.convert("RGB")))


def test_transparency_is_left_out() -> None:
    alpha = np.full((*IMAGE.shape[:2], 1), 7, np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(np.concatenate([IMAGE, alpha], -1), "PNG"), "x"), IMAGE)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(IMAGE[..., 0]).convert("LA"), "PNG"), "x"), GREY)


def test_cmyk_becomes_red_green_and_blue() -> None:
    result = decode_image(encoded(Image.fromarray(IMAGE).convert("CMYK"), "JPEG", quality=95, subsampling=0), "x")
    assert np.abs(result.astype(int) - IMAGE).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_says(orientation: int) -> None:
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }[orientation](IMAGE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encoded(IMAGE, "PNG", exif=exif), "x"), upright)


def test_damaged_exif_data_changes_nothing() -> None:
    data = encoded(IMAGE, "JPEG")
    broken = b"Exif\0\0II*\0\xff\xff\xff\x7f"
    segment = b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken
    np.testing.assert_array_equal(decode_image(data[:2] + segment + data[2:], "x"), decode_image(data, "x"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_every_truncated_file_is_one_sentence(kind: str) -> None:
    data = encoded(random_image(40, 40), kind)
    for length in sorted({1, 7, 20, 40, len(data) // 3, len(data) // 2, len(data) - 40}):
        with pytest.raises(ImageError, match=r"photo: (the image is truncated or damaged|this is not an image)"):
            decode_image(data[:length], "photo")


def test_an_empty_file_and_a_text_are_no_images() -> None:
    with pytest.raises(ImageError, match="photo: an image must have data; this file is empty"):
        decode_image(b"", "photo")
    for data in (b"Once upon a time there was no image.", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(ImageError, match="photo: this is not an image in a format that can be read: JPEG, PNG"):
            decode_image(data, "photo")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("width, height", [(1 << 14, 1 << 14), (1 << 30, 1 << 30), (8193, 8192)])
def test_a_small_file_that_promises_a_huge_image_is_refused(width: int, height: int) -> None:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 4096)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=r"photo: an image may have at most 67,108,864 pixels; this one has"):
        decode_image(bomb, "photo")


def test_pixels_of_other_kinds_are_refused() -> None:
    for pixels in (np.zeros((4, 4), np.float32), np.full((4, 4), 70_000, np.int32)):
        with pytest.raises(ImageError, match="photo: pixels must be whole numbers of 8 or 16 bits"):
            decode_image(encoded(Image.fromarray(pixels), "TIFF"), "photo")


def test_files_are_read_and_missing_ones_named(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png_bytes(IMAGE))
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), IMAGE)
    with pytest.raises(ImageError, match=r"none\.png: there is no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="directory"):
        read_image(tmp_path)


def test_without_pillow_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'rwkv-hybridquant\[images\]'"):
        decode_image(b"x", "photo")

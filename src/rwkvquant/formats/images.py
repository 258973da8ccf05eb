"""The `image` metadata: what a model for images needs besides its tensors. It is there instead of a tokenizer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from rwkvquant.architectures import Dims
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.errors import FormatError
from rwkvquant.formats import strict_json
from rwkvquant.formats.strict_json import shown

KEY = "image"
MAX_NAME = 200  # characters of a class's name
MAX_COLOURS = 16


def encode_image(settings: ImageSettings) -> str:
    return json.dumps(asdict(settings), allow_nan=False)


def decode_image(text: str, dims: Dims) -> ImageSettings:
    """Raises FormatError for settings that do not fit the model's sizes, and for numbers or names that cannot be used."""
    image = strict_json.parse_object(text, KEY)
    grid = strict_json.sizes(image, "grid", KEY)
    if len(grid) != 2 or grid[0] * grid[1] != dims.positions:
        raise FormatError(f"grid of {KEY} must be rows and columns of {dims.positions} positions; got {shown(list(grid))}")
    classes = strict_json.field(image, "classes", list, KEY)
    if classes and len(classes) != dims.classes:
        raise FormatError(f"classes of {KEY} must be the names of {dims.classes} classes, or none; got {len(classes)}")
    for name in classes:
        if type(name) is not str or not name.isprintable() or len(name) > MAX_NAME:
            raise FormatError(f"classes of {KEY} must be printable text of at most {MAX_NAME} characters; got {shown(name)}")
    mean, std = _numbers(image, "mean"), _numbers(image, "std")
    if len(mean) != len(std) or min(std) <= 0:
        raise FormatError(f"std of {KEY} must have a number above 0 for each mean; got {shown(list(std))} for {shown(list(mean))}")
    return ImageSettings((grid[0], grid[1]), strict_json.field(image, "post_norm", bool, KEY), tuple(classes), mean, std)


def _numbers(image: dict[str, Any], name: str) -> tuple[float, ...]:
    values = strict_json.field(image, name, list, KEY)
    if not 1 <= len(values) <= MAX_COLOURS or any(type(value) not in (int, float) or not math.isfinite(value) for value in values):
        raise FormatError(f"{name} of {KEY} must be a list of 1 to {MAX_COLOURS} numbers; got {shown(values)}")
    return tuple(float(value) for value in values)

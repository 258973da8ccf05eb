"""What a model found, drawn into its picture: classes of pixels as an overlay, boxes as frames with names."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.images.pillow import word

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

OPACITY = 0.55  # of an overlay
_GOLDEN = 0.6180339887  # of a turn: hues of neighbouring classes are far apart, for any number of classes
_THIN = 250  # a frame is one pixel thick for each of these on the shorter side
_LETTERS = 25  # letters are as high as this part of the shorter side


def colour_of(index: int) -> Colour:
    """The colour of a class, the same in every picture."""
    hue, round_ = index * _GOLDEN % 1, index // 8
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.55)[round_ % 2], (1.0, 0.75)[round_ // 2 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def overlay(pixels: Pixels, labels: NDArray[np.integer]) -> Pixels:
    """pixels (height, width, 3), labels (height, width) -> each pixel mixed with the colour of its class."""
    colours = np.array([colour_of(index) for index in range(int(labels.max()) + 1)], np.float32)
    mixed = np.empty_like(pixels)
    for row, (line, classes) in enumerate(zip(pixels, labels, strict=True)):  # a row at a time: a photograph in float32 is large
        mixed[row] = np.rint(line * np.float32(1 - OPACITY) + colours[classes] * np.float32(OPACITY))
    return mixed


@dataclass(frozen=True)
class Frame:
    """A box in pixels, its colour, and the name that is written at its top left corner, if any."""

    left: float
    top: float
    right: float
    bottom: float
    colour: Colour
    name: str = ""


def frames(pixels: Pixels, boxes: Sequence[Frame]) -> Pixels:
    """A frame for each box, with its name. The first box is drawn last, above the others. Raises ConfigError for names without Pillow."""
    drawn = pixels.copy()
    height, width = drawn.shape[:2]
    thick = max(1, round(min(height, width) / _THIN))
    for box in reversed(boxes):
        x0, x1 = (min(max(round(x), 0), width) for x in (box.left, box.right))
        y0, y1 = (min(max(round(y), 0), height) for y in (box.top, box.bottom))
        inner_x, inner_y = max(x1 - thick, x0), max(y1 - thick, y0)
        drawn[y0 : min(y0 + thick, y1), x0:x1] = box.colour
        drawn[inner_y:y1, x0:x1] = box.colour
        drawn[y0:y1, x0 : min(x0 + thick, x1)] = box.colour
        drawn[y0:y1, inner_x:x1] = box.colour
        if box.name and x1 > x0 and y1 > y0:
            _write(drawn, box.name, x0, y0, box.colour)
    return drawn


def _write(drawn: Pixels, name: str, x: int, y: int, colour: Colour) -> None:
    """The name on a plate of the box's colour, above the corner (x, y), or below it where the picture ends; no plate leaves the picture."""
    height, width = drawn.shape[:2]
    dark = np.dot(colour, (0.299, 0.587, 0.114)) > 140  # bright plates have dark letters
    plate = word(name, max(10, round(min(height, width) / _LETTERS)), (0, 0, 0) if dark else (255, 255, 255), colour)[:height, :width]
    rows, columns = plate.shape[:2]
    top, left = y - rows if y >= rows else min(y, height - rows), min(x, width - columns)
    drawn[top : top + rows, left : left + columns] = plate

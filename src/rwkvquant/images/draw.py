"""What a model found, drawn into its picture: classes of pixels as an overlay, boxes as frames. NumPy only."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

OPACITY = 0.55  # of an overlay
_GOLDEN = 0.6180339887  # of a turn: hues of neighbouring classes are far apart, for any number of classes
_THIN = 250  # a frame is one pixel thick for each of these on the shorter side


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


def frames(pixels: Pixels, corners: Sequence[tuple[float, float, float, float]], colours: Sequence[Colour]) -> Pixels:
    """A frame for each box: left, top, right, bottom in pixels. The first box is drawn last, above the others."""
    drawn = pixels.copy()
    height, width = drawn.shape[:2]
    thick = max(1, round(min(height, width) / _THIN))
    for (left, top, right, bottom), colour in reversed(list(zip(corners, colours, strict=True))):
        x0, x1 = (min(max(round(x), 0), width) for x in (left, right))
        y0, y1 = (min(max(round(y), 0), height) for y in (top, bottom))
        inner_x, inner_y = max(x1 - thick, x0), max(y1 - thick, y0)
        drawn[y0 : min(y0 + thick, y1), x0:x1] = colour
        drawn[inner_y:y1, x0:x1] = colour
        drawn[y0:y1, x0 : min(x0 + thick, x1)] = colour
        drawn[y0:y1, inner_x:x1] = colour
    return drawn

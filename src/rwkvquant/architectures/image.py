"""What a model for images needs to know besides its tensors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rwkvquant.architectures.dims import Dims
from rwkvquant.architectures.vrwkv import family_of, released_post_norm

# The normalisation of all released models: the means and deviations of ImageNet's colours, red first, in steps of 0 to 255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ImageSettings:
    """`grid`: rows and columns of the position embedding, in patches. `post_norm`: the norms of a block follow its mixes.

    `classes`: their names, or () where they are not known. `mean` and `std` of each colour are subtracted from an image and divide it.
    """

    grid: tuple[int, int]
    post_norm: bool
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


def image_summary(settings: ImageSettings, dims: Dims) -> dict[str, Any]:
    """What `inspect` shows of a model for images: the settings, and its family by layers and width."""
    return {"family": family_of(dims), **asdict(settings)}


def released_settings(dims: Dims) -> ImageSettings:
    """Those of a released classifier of these sizes, without the names of its classes."""
    side = math.isqrt(dims.positions)
    return ImageSettings((side, side), released_post_norm(dims))

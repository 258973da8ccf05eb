"""The settings of a model for images, from what a .pth has next to its tensors: `meta`, as OpenMMLab's tools write it.

    meta["config"]     a dict of the constructor's arguments, or the text of an OpenMMLab configuration
    meta["CLASSES"]    names of the classes (in a dict `config`: "classes")

Nothing in `meta` is trusted: a value of another kind than expected counts as missing. Where it does not say so, a model with layer
scale has its norms after the mixes, and one without has them before, as released. The exception is VRWKV-T in a ViT-Adapter (width 192),
which has layer scale and norms before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from rwkvquant.architectures import Dims
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.errors import CheckpointError

_TINY = 192  # the width of VRWKV-T
_MAX_CLASSES, _MAX_NAME = 100_000, 200


def image_settings(meta: Mapping[Any, Any], dims: Dims, names: Collection[str]) -> ImageSettings:
    """Raises CheckpointError if the rows and columns of the position embedding are not known."""
    config = meta.get("config")
    said = config if isinstance(config, dict) else _of_text(config) if isinstance(config, str) else {}
    post_norm = said.get("post_norm")
    if not isinstance(post_norm, bool):
        has_layer_scale = any(name.endswith(".gamma1") for name in names)
        post_norm = has_layer_scale and dims.width != _TINY
    classes = _classes(meta.get("CLASSES"), dims) or _classes(said.get("classes"), dims)
    return ImageSettings(_grid(said.get("img_size"), dims), post_norm, classes)


def _grid(size: Any, dims: Dims) -> tuple[int, int]:
    """Rows and columns: those of an image of this size, if it has as many patches as the position embedding; else a square."""
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
        rows, columns = (side // dims.patch for side in sides)
        if rows * columns == dims.positions:
            return rows, columns
    side = math.isqrt(dims.positions)
    if side * side != dims.positions:
        raise CheckpointError(
            f"the position embedding has {dims.positions} patches, which are not a square, and nothing says how many are in a row; "
            "save it with torch.save({'state_dict': ..., 'meta': {'config': {'img_size': [rows, columns]}}})"
        )
    return side, side


def _of_text(config: str) -> dict[str, Any]:
    """The arguments of the backbone in the text of an OpenMMLab configuration: `post_norm=True`, `img_size=224`."""
    said: dict[str, Any] = {}
    if match := re.search(r"\bpost_norm\s*=\s*(True|False)\b", config):
        said["post_norm"] = match[1] == "True"
    if match := re.search(r"\bimg_size\s*=\s*(\d{1,5})\b", config):
        said["img_size"] = int(match[1])
    return said


def _classes(names: Any, dims: Dims) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or len(names) != dims.classes or len(names) > _MAX_CLASSES:
        return ()
    valid = all(isinstance(name, str) and name.isprintable() and len(name) <= _MAX_NAME for name in names)
    return tuple(names) if valid else ()

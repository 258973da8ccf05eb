"""Random Vision-RWKV checkpoints with the names and shapes of OpenGVLab's code, whose forward stays far from zero and infinity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

Config = dict[str, object]
CARRIED = {  # a head that is not ours, as UperNet has it, and a part of a ViT-Adapter
    "decode_head.conv_seg.weight": torch.linspace(0, 1, 7 * 32).view(7, 32, 1, 1),
    "decode_head.conv_seg.bias": torch.ones(7),
    "decode_head.fpn_convs.0.bn.running_mean": torch.full((32,), 0.1),
    "backbone.spm.stem.0.weight": torch.ones(2, 3, 3, 3),
    "backbone.level_embed": torch.ones(3, 24),
    "neck.lateral_convs.0.conv.bias": torch.full((9,), 1e6),  # beyond float16
}


def write_vrwkv(folder: Path, *, grid: tuple[int, int] = (2, 6), post_norm: bool = False, carried: bool = False, **shape: Any) -> Path:
    """A checkpoint in `folder`, with meta data; with `carried` its own head is replaced by CARRIED."""
    shape = {"head": ""} | shape if carried else shape
    tensors = random_vrwkv(grid=grid, **shape) | (CARRIED if carried else {})
    size = [side * shape.get("patch", 4) for side in grid]
    torch.save(with_meta(tensors, img_size=size, post_norm=post_norm, classes=list("abcde")), folder / "vision.pth")
    return folder / "vision.pth"


def random_vrwkv(
    *,
    layers: int = 2,
    width: int = 24,
    hidden: int = 40,
    patch: int = 4,
    grid: tuple[int, int] = (3, 3),
    classes: int = 5,
    head: str = "head",
    layer_scale: bool = False,
    key_norm: bool = False,
    final_norm: bool = True,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """`head`: "head" (classes), "decode_head" (segmentation), "bbox_head" (boxes) or "". `grid`: rows and columns of pos_embed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        return mean + scale * torch.randn(shape, generator=generator)

    def linear(out: int, *into: int) -> torch.Tensor:
        return normal(out, *into, scale=float(np.prod(into)) ** -0.5)

    def norm(name: str, size: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": normal(size, scale=0.1, mean=1.0), f"{name}.bias": normal(size, scale=0.1)}

    tensors = {
        "pos_embed": normal(1, grid[0] * grid[1], width, scale=0.5),
        "patch_embed.projection.weight": linear(width, 3, patch, patch),
        "patch_embed.projection.bias": normal(width, scale=0.1),
    }
    for layer in range(layers):
        block = norm("ln1", width) | norm("ln2", width) | (norm("ln0", width) if layer == 0 else {})
        if layer_scale:
            block |= {f"gamma{i}": normal(width, scale=0.3, mean=1.0) for i in (1, 2)}
        block |= {f"att.spatial_{name}": normal(width, scale=3.0) for name in ("decay", "first")}
        block |= {f"att.spatial_mix_{c}": normal(1, 1, width, scale=0.3, mean=0.5) for c in "kvr"}
        block |= {f"att.{name}.weight": linear(width, width) for name in ("key", "value", "receptance", "output")}
        block |= {f"ffn.spatial_mix_{c}": normal(1, 1, width, scale=0.3, mean=0.5) for c in "kr"}
        block |= {"ffn.key.weight": linear(hidden, width), "ffn.receptance.weight": linear(width, width)}
        block |= {"ffn.value.weight": linear(width, hidden)}
        if key_norm:
            block |= norm("att.key_norm", width) | norm("ffn.key_norm", hidden)
        tensors |= {f"layers.{layer}.{name}": tensor for name, tensor in block.items()}
    if final_norm:
        tensors |= norm("ln1", width)
    convolutions = {
        "head": {"fc": (classes, width)},
        "decode_head": {"conv_seg": (classes, width, 1, 1)},
        "bbox_head": {
            **{"conv": (width, width, 3, 3), "conv_cls": (classes, width, 1, 1)},
            **{"conv_reg": (4, width, 1, 1), "conv_centerness": (1, width, 1, 1)},
        },
        "": {},
    }
    state_dict = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    for name, shape in convolutions[head].items():
        state_dict |= {f"{head}.{name}.weight": linear(*shape), f"{head}.{name}.bias": normal(shape[0], scale=0.1)}
    return state_dict


def with_meta(state_dict: dict[str, torch.Tensor], **config: object) -> dict[str, object]:
    """As mmcls saves it: the tensors, and the constructor's arguments in `meta`."""
    return {"state_dict": state_dict, "meta": {"config": config, "epoch": 300}}

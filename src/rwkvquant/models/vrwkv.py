"""Vision-RWKV (arXiv:2403.02308) in torch: embedding, one block, heads, for B images at a time.

    B  images    T = rows x columns  patches    C  width    K  classes    x  (B, T, C), patches row by row

`weights` holds one block's tensors by their names inside the block, or those outside by their whole names: matrices (out, in), kernels
of convolutions too; dense or quantised. `tap` gets every activation that architectures/ names. kernels/vrwkv.py is the definition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.models.bi_wkv import bi_wkv
from rwkvquant.models.layers import Tap, Weights, layer_norm, no_tap
from rwkvquant.models.quantized import linear

Grid = tuple[int, int]  # rows and columns


def embed(weights: Weights, images: Tensor, patch: int, grid: Grid, tap: Tap | None = None) -> tuple[Tensor, Grid]:
    """images (B, I, height, width), normalised -> x, normalised by ln0 of the first block, and the rows and columns of their patches.

    `grid` is that of the position embedding, which is resized bicubically to the images' own. Sides that are no multiple of `patch` get
    zeros at the right and below.
    """
    height, width = images.shape[-2:]
    images = functional.pad(images, (0, -width % patch, 0, -height % patch))
    here = images.shape[-2] // patch, images.shape[-1] // patch
    patches = functional.unfold(images, patch, stride=patch).transpose(1, 2)  # (B, T, I * patch * patch)
    (tap or no_tap)("patches", patches)
    x = linear(patches, weights["backbone.patch_embed.projection.weight"]) + weights["backbone.patch_embed.projection.bias"]
    x = x + _resized(weights["backbone.pos_embed"], grid, here)
    return layer_norm(x, weights, "backbone.layers.0.ln0"), here


def _resized(embedding: Tensor, grid: Grid, here: Grid) -> Tensor:
    if here == grid:
        return embedding
    by_channel = embedding.transpose(1, 2).unflatten(2, grid)
    return functional.interpolate(by_channel, size=here, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def block(weights: Weights, x: Tensor, here: Grid, post_norm: bool, tap: Tap | None = None) -> Tensor:
    """x = x + gamma1 att(ln1 x), x = x + gamma2 ffn(ln2 x), or with `post_norm` x = x + gamma1 ln1(att x) and so on.

    The first block's ln0 is in `embed`. With `post_norm`, `tap` also gets what a norm gives ("ln1.out") and the x after it ("ln1.sum").
    """
    tap = tap or no_tap
    for index, mix in enumerate((_spatial_mix, _channel_mix), 1):
        norm = f"ln{index}"
        y = layer_norm(mix(weights, x, here, tap), weights, norm) if post_norm else mix(weights, layer_norm(x, weights, norm), here, tap)
        gamma = weights.get(f"gamma{index}")
        x = x + (y if gamma is None else gamma * y)
        if post_norm:
            tap(f"{norm}.out", y)
            tap(f"{norm}.sum", x)
    return x


def features(weights: Weights, x: Tensor, here: Grid) -> Tensor:
    """The last block's x -> (B, C, rows, columns), normalised if the model has a last norm."""
    if "backbone.ln1.weight" in weights:
        x = layer_norm(x, weights, "backbone.ln1")
    return x.transpose(1, 2).unflatten(2, here)


def classify(weights: Weights, of: Tensor, tap: Tap | None = None) -> Tensor:
    """Features (B, C, rows, columns) -> logits (B, K), from their mean."""
    x = of.mean((2, 3))
    (tap or no_tap)("head.x", x)
    return linear(x, weights["head.fc.weight"]) + weights["head.fc.bias"]


def segment(weights: Weights, of: Tensor, height: int, width: int, tap: Tap | None = None) -> Tensor:
    """Features (B, C, rows, columns) -> logits (B, K, height, width): of each patch, resized bilinearly."""
    x = of.movedim(1, -1)
    (tap or no_tap)("head.x", x)
    logits = _at_each_patch(weights, "decode_head.conv_seg", x)
    return functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)


def detect(weights: Weights, of: Tensor, tap: Tap | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, C, rows, columns) -> of each patch: logits of classes (B, K, rows, columns), the logarithms of the distances to the
    left, top, right and bottom side of the box, in patches (B, 4, rows, columns), and the logit of centre-ness (B, 1, rows, columns)."""
    tap = tap or no_tap
    around = functional.unfold(of, 3, padding=1).transpose(1, 2).unflatten(1, of.shape[2:])  # (B, rows, columns, C * 9)
    tap("head.around", around)
    x = torch.relu(linear(around, weights["bbox_head.conv.weight"]) + weights["bbox_head.conv.bias"])
    tap("head.x", x)
    classes, sides, centre = (_at_each_patch(weights, f"bbox_head.conv_{name}", x) for name in ("cls", "reg", "centerness"))
    return classes, sides, centre


def _at_each_patch(weights: Weights, name: str, x: Tensor) -> Tensor:
    """A 1 x 1 convolution: x (B, rows, columns, C) -> (B, out, rows, columns)."""
    return (linear(x, weights[f"{name}.weight"]) + weights[f"{name}.bias"]).movedim(-1, 1)


def _spatial_mix(weights: Weights, x: Tensor, here: Grid, tap: Tap) -> Tensor:
    delta = x - q_shift(x, here)
    tap("att.shift_delta", delta)
    inputs = {c: _mixed(x, delta, weights[f"att.spatial_mix_{c}"]) for c in "kvr"}
    for c, mixed in inputs.items():
        tap(f"att.x{c}", mixed)
    k = linear(inputs["k"], weights["att.key.weight"])
    v = linear(inputs["v"], weights["att.value.weight"])
    r = linear(inputs["r"], weights["att.receptance.weight"])
    tokens = x.shape[1]
    y = bi_wkv(weights["att.spatial_decay"] / tokens, weights["att.spatial_first"] / tokens, k, v)
    out = torch.sigmoid(r) * _key_norm(y, weights, "att")
    tap("att.out", out)
    return linear(out, weights["att.output.weight"])


def _channel_mix(weights: Weights, x: Tensor, here: Grid, tap: Tap) -> Tensor:
    delta = x - q_shift(x, here)
    tap("ffn.shift_delta", delta)
    xk, xr = (_mixed(x, delta, weights[f"ffn.spatial_mix_{c}"]) for c in "kr")
    tap("ffn.xk", xk)
    tap("ffn.xr", xr)
    hidden = _key_norm(torch.relu(linear(xk, weights["ffn.key.weight"])).square(), weights, "ffn")
    tap("ffn.hidden", hidden)
    return torch.sigmoid(linear(xr, weights["ffn.receptance.weight"])) * linear(hidden, weights["ffn.value.weight"])


def _mixed(x: Tensor, delta: Tensor, mu: Tensor) -> Tensor:
    """x mu + shifted (1 - mu), written with delta = x - shifted: mu multiplies delta, which is why it is tapped."""
    return x + delta * (mu - 1)


def _key_norm(y: Tensor, weights: Weights, mix: str) -> Tensor:
    return layer_norm(y, weights, f"{mix}.key_norm") if f"{mix}.key_norm.weight" in weights else y


def q_shift(x: Tensor, here: Grid) -> Tensor:
    """A quarter of the channels each from the patch to the left, to the right, above and below; zeros where there is none."""
    on_grid = x.unflatten(1, here)
    width = x.shape[-1]
    left, right, above, below = on_grid.split([(i + 1) * width // 4 - i * width // 4 for i in range(4)], dim=-1)
    shifted = (
        functional.pad(left[:, :, :-1], (0, 0, 1, 0)),
        functional.pad(right[:, :, 1:], (0, 0, 0, 1)),
        functional.pad(above[:, :-1], (0, 0, 0, 0, 1, 0)),
        functional.pad(below[:, 1:], (0, 0, 0, 0, 0, 1)),
    )
    return torch.cat(shifted, dim=-1).flatten(1, 2)

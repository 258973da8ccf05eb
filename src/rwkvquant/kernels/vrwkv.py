"""Vision-RWKV (arXiv:2403.02308) in plain NumPy, top to bottom, for B images at a time: the definition of the forward.

    B  images    I  channels of an image    P  pixels a side of a patch    T = rows x columns  patches    C  width    F  hidden width
    K  classes   x (B, T, C), patches row by row

`weights` by the checkpoint's names: matrices (out, in), kernels of convolutions too, as (out, in * height * width); vectors (C,);
backbone.pos_embed (1, G, C). With float64 weights and images everything is float64. `wkv` is one of bi_wkv.py: the formula, or what the
CUDA kernels compute. Gives up: speed; every product is one of NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from rwkvquant.kernels.bi_wkv import bi_wkv
from rwkvquant.kernels.functions import Array, Tensors, layer_norm, sigmoid, squared_relu
from rwkvquant.kernels.resize import bicubic_weights, bilinear_weights, resize

Weights = Mapping[str, Array]
Grid = tuple[int, int]  # rows and columns
Wkv = Callable[[Array, Array, Array, Array], Array]


def features(weights: Weights, images: Array, patch: int, grid: Grid, post_norm: bool, wkv: Wkv = bi_wkv) -> Array:
    """images (B, I, height, width), normalised, of any size -> (B, C, rows, columns), a vector for each patch.

    `grid`: rows and columns of the position embedding. `post_norm`: the norms of a block follow its mixes.
    """
    x, here = embed(weights, images, patch, grid)
    for layer in range(_layers(weights)):
        x = block(weights, layer, x, here, post_norm, wkv)
    if "backbone.ln1.weight" in weights:
        x = layer_norm(x, weights["backbone.ln1.weight"], weights["backbone.ln1.bias"])
    return x.swapaxes(1, 2).reshape(len(x), -1, *here)


def embed(weights: Weights, images: Array, patch: int, grid: Grid) -> tuple[Array, Grid]:
    """-> x, and the rows and columns of the images' patches. Sides that are no multiple of `patch` get zeros at the right and below."""
    batch, channels, *sides = images.shape
    if any(side % patch for side in sides):
        images = np.pad(images, [(0, 0), (0, 0), *((0, -side % patch) for side in sides)])
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    patches = images.reshape(batch, channels, rows, patch, columns, patch).transpose(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
    x = patches @ weights["backbone.patch_embed.projection.weight"].T + weights["backbone.patch_embed.projection.bias"]
    return x + resized(weights["backbone.pos_embed"], grid, (rows, columns)), (rows, columns)


def resized(embedding: Array, grid: Grid, here: Grid) -> Array:
    """The position embedding (1, G, C) of `grid`, for another grid, bicubically -> (1, T, C)."""
    if here == grid:
        return embedding
    by_channel = embedding.swapaxes(1, 2).reshape(1, -1, *grid)
    weights = (bicubic_weights(old, new) for old, new in zip(grid, here, strict=True))
    return resize(by_channel, *weights).reshape(1, embedding.shape[2], -1).swapaxes(1, 2)


def block(weights: Weights, layer: int, x: Array, here: Grid, post_norm: bool, wkv: Wkv = bi_wkv) -> Array:
    """x = x + gamma1 att(ln1 x), x = x + gamma2 ffn(ln2 x), or with `post_norm` x = x + gamma1 ln1(att x) and so on."""

    def W(name: str) -> Array:
        return weights[f"backbone.layers.{layer}.{name}"]

    def norm(y: Array, name: str) -> Array:
        return layer_norm(y, W(f"{name}.weight"), W(f"{name}.bias"))

    def key_norm(y: Array, mix: str) -> Array:
        there = f"backbone.layers.{layer}.{mix}.key_norm.weight" in weights
        return norm(y, f"{mix}.key_norm") if there else y

    if layer == 0:
        x = norm(x, "ln0")
    mixes: list[Callable[[Array], Array]] = [
        lambda y: spatial_mix(W, y, here, key_norm, wkv),
        lambda y: channel_mix(W, y, here, key_norm),
    ]
    for index, mix in enumerate(mixes, 1):
        y = norm(mix(x), f"ln{index}") if post_norm else mix(norm(x, f"ln{index}"))
        x = x + (W(f"gamma{index}") * y if f"backbone.layers.{layer}.gamma{index}" in weights else y)
    return x


def spatial_mix(W: Tensors, x: Array, here: Grid, key_norm: Callable[[Array, str], Array], wkv: Wkv) -> Array:
    """x (B, T, C) -> (B, T, C)."""
    tokens, shifted = x.shape[1], q_shift(x, here)
    k = mixed(x, shifted, W("att.spatial_mix_k")) @ W("att.key.weight").T
    v = mixed(x, shifted, W("att.spatial_mix_v")) @ W("att.value.weight").T
    r = mixed(x, shifted, W("att.spatial_mix_r")) @ W("att.receptance.weight").T
    y = wkv(W("att.spatial_decay") / tokens, W("att.spatial_first") / tokens, k, v)
    return (sigmoid(r) * key_norm(y, "att")) @ W("att.output.weight").T


def channel_mix(W: Tensors, x: Array, here: Grid, key_norm: Callable[[Array, str], Array]) -> Array:
    """x (B, T, C) -> (B, T, C)."""
    shifted = q_shift(x, here)
    hidden = key_norm(squared_relu(mixed(x, shifted, W("ffn.spatial_mix_k")) @ W("ffn.key.weight").T), "ffn")
    r = mixed(x, shifted, W("ffn.spatial_mix_r")) @ W("ffn.receptance.weight").T
    return sigmoid(r) * (hidden @ W("ffn.value.weight").T)


def mixed(x: Array, shifted: Array, mu: Array) -> Array:
    return x * mu + shifted * (1 - mu)


def q_shift(x: Array, here: Grid) -> Array:
    """A quarter of the channels each from the patch to the left, to the right, above and below; zeros where there is none.

    (B, T, C) -> (B, T, C). Quarters end at channel floor(i C / 4).
    """
    batch, tokens, width = x.shape
    on_grid = x.reshape(batch, *here, width)
    shifted = np.zeros_like(on_grid)
    ends = [index * width // 4 for index in range(5)]
    left, right, above, below = (slice(*pair) for pair in pairwise(ends))
    shifted[:, :, 1:, left] = on_grid[:, :, :-1, left]
    shifted[:, :, :-1, right] = on_grid[:, :, 1:, right]
    shifted[:, 1:, :, above] = on_grid[:, :-1, :, above]
    shifted[:, :-1, :, below] = on_grid[:, 1:, :, below]
    return shifted.reshape(batch, tokens, width)


def classify(weights: Weights, of: Array) -> Array:
    """Features (B, C, rows, columns) -> logits (B, K), from their mean."""
    return of.mean((2, 3)) @ weights["head.fc.weight"].T + weights["head.fc.bias"]


def segment(weights: Weights, of: Array, height: int, width: int) -> Array:
    """Features (B, C, rows, columns) -> logits (B, K, height, width): of each patch, resized bilinearly."""
    logits = _at_each_patch(weights, "decode_head.conv_seg", of)
    return resize(logits, bilinear_weights(of.shape[2], height), bilinear_weights(of.shape[3], width))


def detect(weights: Weights, of: Array) -> tuple[Array, Array, Array]:
    """Features (B, C, rows, columns) -> of each patch: logits of classes (B, K, ...), log of the box's sides in patches, left, top,
    right, bottom (B, 4, ...), and the logit of centre-ness (B, 1, ...); see boxes.py."""
    batch, channels, rows, columns = of.shape
    padded = np.pad(of, [(0, 0), (0, 0), (1, 1), (1, 1)])
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # (B, C, rows, columns, 3, 3)
    around = around.transpose(0, 2, 3, 1, 4, 5).reshape(batch, rows, columns, channels * 9)
    hidden = np.maximum(around @ weights["bbox_head.conv.weight"].T + weights["bbox_head.conv.bias"], 0)
    hidden = np.moveaxis(hidden, -1, 1)
    classes, sides, centre = (_at_each_patch(weights, f"bbox_head.conv_{name}", hidden) for name in ("cls", "reg", "centerness"))
    return classes, sides, centre


def _at_each_patch(weights: Weights, name: str, of: Array) -> Array:
    """A 1 x 1 convolution."""
    return np.moveaxis(np.moveaxis(of, 1, -1) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], -1, 1)


def _layers(weights: Weights) -> int:
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("backbone.layers."))

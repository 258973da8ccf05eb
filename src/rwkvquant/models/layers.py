"""Parts that both architectures use: types, the token shift, norms, and the state before the first token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Any]  # name -> Tensor, or for matrices also QuantizedMatrix; both work in quantized.linear
# RWKV: att_shift (B, C), ffn_shift (B, C), wkv (B, H, N, N) indexed [value, key]. LLaMA: keys and values (B, P, U N)
BlockState = tuple[Tensor, ...]
Tap = Callable[[str, Tensor], None]  # called with the activations that architectures/ names

LAYER_NORM_EPS = 1e-5
GROUP_NORM_EPS = 64e-5  # for every head size: the training code's 1e-5 * 8**2, with which all released models were trained


def no_tap(name: str, activation: Tensor) -> None:
    """A tap that does nothing."""


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], LAYER_NORM_EPS)


def head_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """(B, T, H, N) -> (B, T, C): each head normalised on its own, then scaled by channel."""
    batch, tokens, heads, size = x.shape
    flat = x.reshape(batch * tokens, heads * size)
    return functional.group_norm(flat, heads, weights[f"{name}.weight"], weights[f"{name}.bias"], GROUP_NORM_EPS).view(
        batch, tokens, heads * size
    )


def shift_delta(x: Tensor, previous: Tensor) -> Tensor:
    """x_{t-1} - x_t. x (B, T, C), previous (B, C): the token before the first."""
    return torch.cat([previous[:, None], x[:, :-1]], dim=1) - x


def split_heads(x: Tensor, size: int) -> Tensor:
    """(B, T, C) -> (B, T, H, N)."""
    return x.unflatten(-1, (-1, size))


def initial_state(weights: Weights, x: Tensor, heads: int, size: int) -> BlockState:
    """The state before the first token: zeros, or for the wkv the tuned `att.time_state` (H, N, N).

    time_state is taken as [value, key], as the training kernels of both architectures store it. The rwkv package transposes it for RWKV-6,
    because its own state is [key, value] there.
    """
    batch, _, width = x.shape
    tuned = weights.get("att.time_state")
    wkv = x.new_zeros(batch, heads, size, size) if tuned is None else tuned.expand(batch, -1, -1, -1)
    return x.new_zeros(batch, width), x.new_zeros(batch, width), wkv

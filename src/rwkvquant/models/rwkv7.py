"""RWKV-7 "Goose" (x070, arXiv:2503.14456) in torch: embedding, one block, head. Sequences and batches; the state is carried by the caller.

    B  sequences    T  tokens    C  width    H  heads    N  head size    x  (B, T, C)

`weights` holds one block's tensors by their names inside the block ("att.key.weight"): matrices (out, in), LoRA factors too,
dense or quantised; vectors (C,), att.r_k (H, N). `tap` gets every activation that architectures/ names.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.models.layers import BlockState, Tap, Weights, head_norm, initial_state, layer_norm, no_tap, shift_delta, split_heads
from rwkvquant.models.quantized import linear, rows
from rwkvquant.models.wkv import wkv7_chunked


def embed(weights: Weights, tokens: Tensor) -> Tensor:
    """tokens (B, T) int64 -> x (B, T, C), normalised by ln0 of the first block."""
    return layer_norm(rows(weights["emb.weight"], tokens), weights, "blocks.0.ln0")


def block(
    weights: Weights, x: Tensor, state: BlockState | None, carry: Tensor | None, tap: Tap | None = None
) -> tuple[Tensor, BlockState, Tensor]:
    """One layer. `carry` is v_first (B, T, C), the first layer's values, and None before the first layer, which sets it."""
    tap = tap or no_tap
    heads, size = weights["att.r_k"].shape
    att_shift, ffn_shift, S = state or initial_state(weights, x, heads, size)
    y, att_shift, S, carry = _time_mix(weights, layer_norm(x, weights, "ln1"), att_shift, S, carry, tap)
    x = x + y
    y, ffn_shift = _channel_mix(weights, layer_norm(x, weights, "ln2"), ffn_shift, tap)
    return x + y, (att_shift, ffn_shift, S), carry


def head(weights: Weights, x: Tensor, tap: Tap | None = None) -> Tensor:
    """x (B, T, C) -> logits (B, T, V)."""
    x = layer_norm(x, weights, "ln_out")
    (tap or no_tap)("head.x", x)
    return linear(x, weights["head.weight"])


def _time_mix(
    weights: Weights, x: Tensor, previous: Tensor, S: Tensor, v_first: Tensor | None, tap: Tap
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = S.shape[-1]
    delta = shift_delta(x, previous)
    tap("att.shift_delta", delta)

    def mixed(name: str) -> Tensor:
        y = torch.addcmul(x, delta, weights[f"att.x_{name}"])
        tap(f"att.x{name}", y)
        return y

    def product(y: Tensor, name: str) -> Tensor:
        return linear(y, weights[f"att.{name}"])

    def lora(y: Tensor, name: str, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        hidden = product(y, f"{name}1")
        if activation is not None:
            hidden = activation(hidden)
        tap(f"att.{name}_hidden", hidden)
        return product(hidden, f"{name}2")

    r = product(mixed("r"), "receptance.weight")
    k = product(mixed("k"), "key.weight")
    xv = mixed("v")
    v = product(xv, "value.weight")
    if v_first is None:
        v_first = v
    else:
        v = torch.lerp(v, v_first, torch.sigmoid(weights["att.v0"] + lora(xv, "v")))
    w = torch.exp(-math.exp(-0.5) * torch.sigmoid(weights["att.w0"] + lora(mixed("w"), "w", torch.tanh)))  # decay, in (0.545, 1)
    a = torch.sigmoid(weights["att.a0"] + lora(mixed("a"), "a"))  # in-context learning rate
    g = lora(mixed("g"), "g", torch.sigmoid)

    tap("att.k", k)
    tap("att.k_times_a_minus_1", k * (a - 1))
    kappa = functional.normalize(split_heads(k * weights["att.k_k"], size), dim=-1)  # removal key; (B, T, H, N), each of length 1
    k = k + k * (a - 1) * weights["att.k_a"]  # replacement key

    r, w, k, v, a = (split_heads(y, size) for y in (r, w, k, v, a))
    o, S = wkv7_chunked(r, w, k, v, kappa, a, S)

    r_times_k = r * k
    tap("att.r_times_k", r_times_k)
    bonus = (r_times_k * weights["att.r_k"]).sum(-1, keepdim=True) * v  # of the current token, added after the norm
    out = (head_norm(o, weights, "att.ln_x") + bonus.flatten(-2)) * g
    tap("att.out", out)
    return product(out, "output.weight"), x[:, -1].clone(), S, v_first


def _channel_mix(weights: Weights, x: Tensor, previous: Tensor, tap: Tap) -> tuple[Tensor, Tensor]:
    delta = shift_delta(x, previous)
    tap("ffn.shift_delta", delta)
    xk = torch.addcmul(x, delta, weights["ffn.x_k"])
    tap("ffn.xk", xk)
    hidden = torch.relu(linear(xk, weights["ffn.key.weight"])).square()
    tap("ffn.hidden", hidden)
    return linear(hidden, weights["ffn.value.weight"]), x[:, -1].clone()

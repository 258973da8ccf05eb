"""RWKV-6 "Finch" (x060, arXiv:2404.05892) in torch: embedding, one block, head. Sequences and batches; the state is carried by the caller.

    B  sequences    T  tokens    C  width    H  heads    N  head size    Rm  rank of the mix    x  (B, T, C)

`weights` holds one block's tensors by their names inside the block ("att.key.weight"): matrices (out, in), LoRA factors too,
dense or quantised; the five matrices of time_maa_w2 as "att.time_maa_w2.0" to ".4", each (C, Rm); vectors (C,), att.time_faaaa (H, N).
`tap` gets every activation that architectures/ names.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.models.layers import BlockState, Tap, Weights, head_norm, initial_state, layer_norm, no_tap, shift_delta, split_heads
from rwkvquant.models.quantized import linear, rows
from rwkvquant.models.wkv import wkv6_chunked


def embed(weights: Weights, tokens: Tensor) -> Tensor:
    """tokens (B, T) int64 -> x (B, T, C), normalised by ln0 of the first block."""
    return layer_norm(rows(weights["emb.weight"], tokens), weights, "blocks.0.ln0")


def block(
    weights: Weights, x: Tensor, state: BlockState | None, carry: Tensor | None, tap: Tap | None = None
) -> tuple[Tensor, BlockState, Tensor | None]:
    """One layer. `carry` is None in and out: in RWKV-6 nothing but x passes from layer to layer."""
    tap = tap or no_tap
    heads, size = weights["att.time_faaaa"].shape
    att_shift, ffn_shift, S = state or initial_state(weights, x, heads, size)
    y, att_shift, S = _time_mix(weights, layer_norm(x, weights, "ln1"), att_shift, S, tap)
    x = x + y
    y, ffn_shift = _channel_mix(weights, layer_norm(x, weights, "ln2"), ffn_shift, tap)
    return x + y, (att_shift, ffn_shift, S), carry


def head(weights: Weights, x: Tensor, tap: Tap | None = None) -> Tensor:
    """x (B, T, C) -> logits (B, T, V)."""
    x = layer_norm(x, weights, "ln_out")
    (tap or no_tap)("head.x", x)
    return linear(x, weights["head.weight"])


def _time_mix(weights: Weights, x: Tensor, previous: Tensor, S: Tensor, tap: Tap) -> tuple[Tensor, Tensor, Tensor]:
    size = S.shape[-1]

    def product(y: Tensor, name: str) -> Tensor:
        return linear(y, weights[f"att.{name}"])

    delta = shift_delta(x, previous)
    tap("att.shift_delta", delta)
    xx = torch.addcmul(x, delta, weights["att.time_maa_x"])
    tap("att.xx", xx)
    hidden = torch.tanh(product(xx, "time_maa_w1")).unflatten(-1, (5, -1)).movedim(-2, 0)  # (5, B, T, Rm)
    tap("att.maa_hidden", hidden)

    mixed = {}
    for i, name in enumerate("wkvrg"):  # the share of the previous token in each input depends on the data
        mixed[name] = x + delta * (weights[f"att.time_maa_{name}"] + product(hidden[i], f"time_maa_w2.{i}"))
        tap(f"att.x{name}", mixed[name])

    r = product(mixed["r"], "receptance.weight")
    k = product(mixed["k"], "key.weight")
    v = product(mixed["v"], "value.weight")
    g = functional.silu(product(mixed["g"], "gate.weight"))
    w_hidden = torch.tanh(product(mixed["w"], "time_decay_w1"))
    tap("att.w_hidden", w_hidden)
    log_w = -torch.exp(weights["att.time_decay"] + product(w_hidden, "time_decay_w2"))  # the decay is exp(log_w), in (0, 1)

    r, k, v, log_w = (split_heads(y, size) for y in (r, k, v, log_w))
    o, S = wkv6_chunked(r, log_w, k, v, weights["att.time_faaaa"], S)
    out = head_norm(o, weights, "att.ln_x") * g
    tap("att.out", out)
    return product(out, "output.weight"), x[:, -1].clone(), S


def _channel_mix(weights: Weights, x: Tensor, previous: Tensor, tap: Tap) -> tuple[Tensor, Tensor]:
    delta = shift_delta(x, previous)
    tap("ffn.shift_delta", delta)
    xk = torch.addcmul(x, delta, weights["ffn.time_maa_k"])
    xr = torch.addcmul(x, delta, weights["ffn.time_maa_r"])
    tap("ffn.xk", xk)
    tap("ffn.xr", xr)
    hidden = torch.relu(linear(xk, weights["ffn.key.weight"])).square()
    tap("ffn.hidden", hidden)
    return torch.sigmoid(linear(xr, weights["ffn.receptance.weight"])) * linear(hidden, weights["ffn.value.weight"]), x[:, -1].clone()

"""LLaMA (arXiv:2302.13971) in torch: embedding, one block, head. Sequences and batches; the cache is carried by the caller.

    B  sequences    T  tokens    P  tokens of the cache    C  width    H  heads    U  heads of keys and values    N  head size

    a_t = softmax over s <= t of (q_t . k_s / sqrt(N)),  o_t = sum_s a_ts v_s        H / U heads of q share one head of k and v

`weights` holds one block's tensors by their names inside the block, matrices (out, in), dense or quantised. The state of a block is its
cache: keys before RoPE and values, each (B, P, U N). `tap` gets every activation that architectures/ names.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.models.layers import BlockState, Tap, Weights, no_tap, split_heads
from rwkvquant.models.quantized import linear, rows


class Attend(Protocol):
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, frequencies: Tensor) -> Tensor:
        """q (B, T, H, N), scaled; k, v (B, P + T, U, N); q and k before RoPE -> (B, T, H, N)."""
        ...


def embed(weights: Weights, tokens: Tensor) -> Tensor:
    """tokens (B, T) int64 -> x (B, T, C)."""
    return rows(weights["model.embed_tokens.weight"], tokens)


def attention(q: Tensor, k: Tensor, v: Tensor, frequencies: Tensor) -> Tensor:
    """See Attend. Exact: every query sees the keys of its own token and of all before."""
    past = k.shape[1] - q.shape[1]
    q, k = rotate(q, frequencies, past), rotate(k, frequencies)
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))  # (B, heads, tokens, N)
    mask = None if past == 0 else torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(past)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=past == 0, scale=1.0, enable_gqa=True)
    return out.transpose(1, 2)


def block(
    weights: Weights, x: Tensor, state: BlockState | None, carry: Tensor | None, tap: Tap | None = None, attend: Attend = attention
) -> tuple[Tensor, BlockState, None]:
    """One layer. There is no carry. `attend` takes the place of exact attention in studies of quantised caches."""
    tap = tap or no_tap
    y = rms_norm(x, weights, "input_layernorm")
    tap("attn.x", y)
    q, k, v = (linear(y, weights[f"self_attn.{name}_proj.weight"]) for name in "qkv")
    if state is not None:
        k, v = torch.cat([state[0], k], dim=1), torch.cat([state[1], v], dim=1)
    frequencies, scale = weights["self_attn.frequencies"], weights["self_attn.score_scale"]
    size = len(frequencies)
    out = attend(split_heads(q, size) * scale[:, None], split_heads(k, size), split_heads(v, size), frequencies).flatten(-2)
    tap("attn.out", out)
    x = x + linear(out, weights["self_attn.o_proj.weight"])

    y = rms_norm(x, weights, "post_attention_layernorm")
    tap("mlp.x", y)
    hidden = functional.silu(linear(y, weights["mlp.gate_proj.weight"])) * linear(y, weights["mlp.up_proj.weight"])
    tap("mlp.hidden", hidden)
    return x + linear(hidden, weights["mlp.down_proj.weight"]), (k, v), None


def head(weights: Weights, x: Tensor, tap: Tap | None = None) -> Tensor:
    """x (B, T, C) -> logits (B, T, V)."""
    x = rms_norm(x, weights, "model.norm")
    (tap or no_tap)("head.x", x)
    return linear(x, weights["lm_head.weight"])


def rms_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + weights[f"{name}.epsilon"]) * weights[f"{name}.weight"]


def rotate(x: Tensor, frequencies: Tensor, first: int = 0) -> Tensor:
    """RoPE: x (B, T, heads, N), of the tokens at the positions `first` and after -> the same shape."""
    positions = torch.arange(first, first + x.shape[1], device=x.device, dtype=frequencies.dtype)
    angles = (positions[:, None] * frequencies)[:, None]  # (T, 1, N)
    one, other = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat([-other, one], dim=-1) * angles.sin()

"""One token of RWKV-7 "Goose" (x070, arXiv:2503.14456), top to bottom, for B sequences at a time.

    L  layers    C  width    F  hidden width    V  vocabulary    H  heads    N  head size, C = H N

    S_t = S_{t-1} (diag(w_t) - kappa_t^T (a_t * kappa_t)) + v_t^T k_t        o_t = r_t S_t^T        S (H, N, N), [value, key]

Plain NumPy float32. It is the reference for the native engine, and runs where that is missing. Gives up: speed. Every weight is read
in full precision, and a prompt is read token by token.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rwkvquant.kernels.functions import Array, Tensors, head_norm, layer_norm, sigmoid, squared_relu, tensors_of
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.kernels.token_shift import token_shift
from rwkvquant.kernels.wkv7 import bonus7, keys7, wkv7


def step(weights: Mapping[str, Array], x: Array, state: RecurrentState) -> tuple[Array, RecurrentState]:
    """x (B, C), the tokens' embedding rows before ln0 -> logits (B, V), and the state after the token; `state` stays as it was.

    `weights` by the checkpoint's names ("blocks.3.att.key.weight"): matrices (out, in), LoRA factors too, so "att.w1" is (Rw, C);
    vectors (C,); att.r_k (H, N).
    """
    state = state.copy()
    x = layer_norm(x, weights["blocks.0.ln0.weight"], weights["blocks.0.ln0.bias"])
    v_first = None  # the first layer's values, which every later layer mixes into its own
    for layer in range(len(state.wkv)):
        W = tensors_of(weights, layer)

        y = layer_norm(x, W("ln1.weight"), W("ln1.bias"))
        out, state.wkv[layer], v_first = time_mix(W, y, state.att_shift[layer], state.wkv[layer], v_first)
        state.att_shift[layer] = y
        x = x + out

        y = layer_norm(x, W("ln2.weight"), W("ln2.bias"))
        x = x + channel_mix(W, y, state.ffn_shift[layer])
        state.ffn_shift[layer] = y
    x = layer_norm(x, weights["ln_out.weight"], weights["ln_out.bias"])
    return x @ weights["head.weight"].T, state


def time_mix(W: Tensors, x: Array, previous: Array, S: Array, v_first: Array | None) -> tuple[Array, Array, Array]:
    """x, previous (B, C), S (B, H, N, N), v_first (B, C), None in the first layer -> out (B, C), S, v_first."""
    heads = (len(x), *W("att.r_k").shape)  # (B, H, N)
    xr, xw, xk, xv, xa, xg = (token_shift(x, previous, W(f"att.x_{c}")) for c in "rwkvag")

    r = xr @ W("att.receptance.weight").T
    k = xk @ W("att.key.weight").T
    v = xv @ W("att.value.weight").T
    w = np.tanh(xw @ W("att.w1").T) @ W("att.w2").T
    a = xa @ W("att.a1").T @ W("att.a2").T
    g = sigmoid(xg @ W("att.g1").T) @ W("att.g2").T
    v_gate = v0 = None
    if v_first is None:
        v_first = v
    else:
        v_gate, v0 = by_head(xv @ W("att.v1").T @ W("att.v2").T, heads), by_head(W("att.v0"), heads)

    r, k, v, w, a, g = (by_head(y, heads) for y in (r, k, v, w, a, g))
    w0, a0, k_k, k_a = (by_head(W(f"att.{name}"), heads) for name in ("w0", "a0", "k_k", "k_a"))
    w, k, v, kappa, a_kappa = keys7(k, v, w, a, v_gate, w0, a0, v0, k_k, k_a, by_head(v_first, heads))
    o, S = wkv7(S, r, w, k, v, kappa, a_kappa)
    y = by_head(head_norm(o, W("att.ln_x.weight"), W("att.ln_x.bias")), heads)
    out = bonus7(y, r, k, W("att.r_k"), v, g).reshape(x.shape)
    return out @ W("att.output.weight").T, S, v_first


def by_head(x: Array, heads: tuple[int, ...]) -> Array:
    """(B, C) -> (B, H, N), a vector (C,) -> (H, N)."""
    return x.reshape(heads if x.ndim == 2 else heads[1:])


def channel_mix(W: Tensors, x: Array, previous: Array) -> Array:
    """x, previous (B, C) -> (B, C)."""
    xk = token_shift(x, previous, W("ffn.x_k"))
    return squared_relu(xk @ W("ffn.key.weight").T) @ W("ffn.value.weight").T

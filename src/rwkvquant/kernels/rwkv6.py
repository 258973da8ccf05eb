"""One token of RWKV-6 "Finch" (x060, arXiv:2404.05892), top to bottom, for B sequences at a time.

    L  layers    C  width    F  hidden width    V  vocabulary    H  heads    N  head size, C = H N    Rm  rank of the mix

    o_t = r_t (S_{t-1} + v_t^T (u * k_t))^T        S_t = S_{t-1} diag(w_t) + v_t^T k_t        S (H, N, N), [value, key]

Plain NumPy float32. It is the reference for the native engine, and runs where that is missing. Gives up: speed. Every weight is read
in full precision, and a prompt is read token by token.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rwkvquant.kernels.functions import Array, Tensors, head_norm, layer_norm, sigmoid, silu, squared_relu, tensors_of
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.kernels.token_shift import token_shift
from rwkvquant.kernels.wkv6 import decay6, wkv6


def step(weights: Mapping[str, Array], x: Array, state: RecurrentState) -> tuple[Array, RecurrentState]:
    """x (B, C), the tokens' embedding rows before ln0 -> logits (B, V), and the state after the token; `state` stays as it was.

    `weights` by the checkpoint's names ("blocks.3.att.key.weight"): matrices (out, in), LoRA factors too, so "att.time_decay_w1" is
    (Rd, C), and att.time_maa_w2 (5, C, Rm); vectors (C,); att.time_faaaa (H, N).
    """
    state = state.copy()
    x = layer_norm(x, weights["blocks.0.ln0.weight"], weights["blocks.0.ln0.bias"])
    for layer in range(len(state.wkv)):
        W = tensors_of(weights, layer)

        y = layer_norm(x, W("ln1.weight"), W("ln1.bias"))
        out, state.wkv[layer] = time_mix(W, y, state.att_shift[layer], state.wkv[layer])
        state.att_shift[layer] = y
        x = x + out

        y = layer_norm(x, W("ln2.weight"), W("ln2.bias"))
        x = x + channel_mix(W, y, state.ffn_shift[layer])
        state.ffn_shift[layer] = y
    x = layer_norm(x, weights["ln_out.weight"], weights["ln_out.bias"])
    return x @ weights["head.weight"].T, state


def time_mix(W: Tensors, x: Array, previous: Array, S: Array) -> tuple[Array, Array]:
    """x, previous (B, C), S (B, H, N, N) -> out (B, C), S."""
    u = W("att.time_faaaa")
    heads = (len(x), *u.shape)  # (B, H, N)

    # The share of the previous token in each of the five inputs depends on the data.
    xx = token_shift(x, previous, W("att.time_maa_x"))
    hidden = np.tanh(xx @ W("att.time_maa_w1").T).reshape(len(x), 5, -1)  # (B, 5, Rm)
    lean = [hidden[:, i] @ W("att.time_maa_w2")[i].T for i in range(5)]  # each (B, C)
    xw, xk, xv, xr, xg = (token_shift(x, previous, W(f"att.time_maa_{c}") + lean[i]) for i, c in enumerate("wkvrg"))

    r = (xr @ W("att.receptance.weight").T).reshape(heads)
    k = (xk @ W("att.key.weight").T).reshape(heads)
    v = (xv @ W("att.value.weight").T).reshape(heads)
    g = silu(xg @ W("att.gate.weight").T)
    d = np.tanh(xw @ W("att.time_decay_w1").T) @ W("att.time_decay_w2").T
    w = decay6(W("att.time_decay"), d).reshape(heads)
    o, S = wkv6(S, r, w, k, v, u)
    out = head_norm(o, W("att.ln_x.weight"), W("att.ln_x.bias")) * g
    return out @ W("att.output.weight").T, S


def channel_mix(W: Tensors, x: Array, previous: Array) -> Array:
    """x, previous (B, C) -> (B, C)."""
    xk = token_shift(x, previous, W("ffn.time_maa_k"))
    xr = token_shift(x, previous, W("ffn.time_maa_r"))
    return sigmoid(xr @ W("ffn.receptance.weight").T) * (squared_relu(xk @ W("ffn.key.weight").T) @ W("ffn.value.weight").T)

"""RWKV-7's recurrence, and the steps right before and after it; (..., N) is one vector for each head.

    S' = S (diag(w) - kappa^T (a * kappa)) + v^T k        o = S' r        S (..., N, N), [value, key]

The NumPy version of native/wkv7.cpp.
"""

from __future__ import annotations

import math

import numpy as np

from rwkvquant.kernels.functions import Array, sigmoid, unit_length

DECAY_RATE = math.exp(-0.5)


def keys7(
    k: Array,
    v: Array,
    w: Array,
    a: Array,
    v_gate: Array | None,
    w0: Array,
    a0: Array,
    v0: Array | None,
    k_k: Array,
    k_a: Array,
    v_first: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """The outputs of projections and LoRA pairs, all (..., N) -> decay w, replacement key k, v, removal key kappa, a * kappa.

    `v_gate` and `v0` are None in the first layer. All later layers mix its values, `v_first`, into their own.
    """
    if v_gate is not None and v0 is not None:
        v = v + (v_first - v) * sigmoid(v0 + v_gate)
    a = sigmoid(a0 + a)  # in-context learning rate
    w = np.exp(-DECAY_RATE * sigmoid(w0 + w))  # decay, in (0.545, 1)
    kappa = unit_length(k * k_k)
    return w, k * (1 + (a - 1) * k_a), v, kappa, a * kappa


def wkv7(S: Array, r: Array, w: Array, k: Array, v: Array, kappa: Array, a_kappa: Array) -> tuple[Array, Array]:
    """S (..., N, N), the rest (..., N) -> o (..., N), the next S."""
    removed = S @ kappa[..., None]  # (..., N, 1): what the state has stored for the removal key
    S = S * w[..., None, :] - removed * a_kappa[..., None, :] + v[..., None] * k[..., None, :]
    return (S @ r[..., None])[..., 0], S


def bonus7(y: Array, r: Array, k: Array, r_k: Array, v: Array, g: Array) -> Array:
    """y, the normalised o, and the rest (..., N) -> (..., N): adds the current token's bonus after the
    norm, and applies the gate."""
    return (y + (r * k * r_k).sum(-1, keepdims=True) * v) * g

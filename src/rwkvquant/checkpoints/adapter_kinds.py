"""What each kind of adapter makes of a weight W (out, in). All arrays are float32; r is the adapter's rank.

    lora      A (r, in), B (out, r)       W + scale * B A                       arXiv:2106.09685
    pissa     as lora, and A0, B0         W - B0 A0 + B A                       arXiv:2404.02948; A0, B0 are what the training began with
    bone      D (r, out)                  W[o, i] + D[i mod r, o]               arXiv:2409.15371 (also called DiSHA and MiSS)
    bat       D (blocks, r, r)            W_ab + W_ab D + D for each block W_ab (r, r) of W, a counts rows of blocks, b columns

RWKV-PEFT has one D of `bat` for each b, and PEFT one for each a.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def lora(W: Array, A: Array, B: Array, scale: float) -> Array:
    return W + np.float32(scale) * (B @ A)


def pissa(W: Array, A: Array, B: Array, A0: Array, B0: Array) -> Array:
    return W - B0 @ A0 + B @ A


def bone(W: Array, D: Array) -> Array:
    return W + D[np.arange(W.shape[1]) % len(D)].T


def bat(W: Array, D: Array, by_columns: bool) -> Array:
    """`by_columns`: one D for each column of blocks, else one for each row of blocks."""
    r = D.shape[-1]
    blocks = W.reshape(W.shape[0] // r, r, W.shape[1] // r, r).swapaxes(1, 2)  # (a, b, r, r)
    own = D[None] if by_columns else D[:, None]
    return np.ascontiguousarray((blocks + blocks @ own + own).swapaxes(1, 2)).reshape(W.shape)

"""RWKV-6's recurrence and its decay; (..., N) is one vector for each head.

    o = (S + v^T (u * k)) r        S' = S diag(w) + v^T k        S (..., N, N), [value, key]

The NumPy version of native/wkv6.cpp; decay6 is in native/elementwise.cpp.
"""

from __future__ import annotations

import numpy as np

from rwkvquant.kernels.functions import Array


def decay6(w0: Array, d: Array) -> Array:
    """The decay w, in (0, 1). The sum is limited to 80 so that exp does not overflow; w is 0 at much smaller sums."""
    return np.exp(-np.exp(np.minimum(w0 + d, 80)))


def wkv6(S: Array, r: Array, w: Array, k: Array, v: Array, u: Array) -> tuple[Array, Array]:
    """S (..., N, N), the rest (..., N) -> o (..., N), the next S. The current token counts with its bonus u."""
    vk = v[..., None] * k[..., None, :]
    o = ((S + vk * u[..., None, :]) @ r[..., None])[..., 0]
    return o, S * w[..., None, :] + vk

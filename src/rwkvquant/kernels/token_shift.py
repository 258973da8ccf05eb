"""The token shift: each input is mixed with that of the previous token.

    y = x + (previous - x) mu        mu (C,), or (B, C) where it depends on the data (RWKV-6)

The NumPy version of native/token_shift.cpp.
"""

from __future__ import annotations

from rwkvquant.kernels.functions import Array


def token_shift(x: Array, previous: Array, mu: Array) -> Array:
    """x, previous (B, C), mu (C,) or (B, C) -> (B, C)."""
    return x + (previous - x) * mu

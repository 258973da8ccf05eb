"""Weights and Hessians to quantise."""

from __future__ import annotations

import numpy as np


def matrix_and_hessian(seed: int, rows: int = 4, cols: int = 150, tokens: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian weights with an outlier, and the H of inputs that are correlated and of different sizes, like real ones."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((rows, cols))
    W[0, 5] = 6.0
    X = rng.standard_normal((tokens, cols)) @ (np.eye(cols) + 0.3 * rng.standard_normal((cols, cols))) * rng.lognormal(0, 1, cols)
    return W, X.T @ X / tokens

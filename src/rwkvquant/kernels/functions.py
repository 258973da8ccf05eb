"""Small functions that the NumPy steps of both architectures use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 in and out; with float64 input a step runs in float64, which tests use as the reference
Tensors = Callable[[str], Array]

LAYER_NORM_EPS = 1e-5
GROUP_NORM_EPS = 64e-5  # for every head size, as in training


def tensors_of(weights: Mapping[str, Array], layer: int) -> Tensors:
    """The tensors of one layer by their names inside it: "att.key.weight" -> the array."""
    return lambda name: weights[f"blocks.{layer}.{name}"]


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """x (B, C), weight and bias (C,) -> (B, C): mean 0 and variance 1 over C, then scaled and moved."""
    return _standardized(x, LAYER_NORM_EPS) * weight + bias


def head_norm(x: Array, weight: Array, bias: Array) -> Array:
    """x (B, H, N), weight and bias (C,) -> (B, C): each head on its own, then scaled and moved by channel."""
    return _standardized(x, GROUP_NORM_EPS).reshape(len(x), -1) * weight + bias


def unit_length(x: Array) -> Array:
    """(..., N) -> the same directions with Euclidean length 1; zero stays zero."""
    return x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def squared_relu(x: Array) -> Array:
    return np.square(np.maximum(x, 0))


def _standardized(x: Array, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)

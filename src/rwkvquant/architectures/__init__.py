"""Architectures as objects, NumPy only: the tensors of each, its sizes, its state, and everything that other code must know about it."""

from rwkvquant.architectures.architecture import Architecture, Relative, SquaredRelu
from rwkvquant.architectures.base import MATRIX_ROLES, QUANTIZED_ROLES, Role, TensorSpec
from rwkvquant.architectures.dims import SYMBOLS, Dims
from rwkvquant.architectures.registry import ARCHITECTURES, architecture, register

__all__ = [
    "ARCHITECTURES",
    "MATRIX_ROLES",
    "QUANTIZED_ROLES",
    "SYMBOLS",
    "Architecture",
    "Dims",
    "Relative",
    "Role",
    "SquaredRelu",
    "TensorSpec",
    "architecture",
    "register",
]

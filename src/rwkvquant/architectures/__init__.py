"""Architectures: the tensors of each, and what the rest of the project must know of them. NumPy only."""

from rwkvquant.architectures import rwkv6, rwkv7
from rwkvquant.architectures.base import GLOBAL, QUANTIZED_ROLES, Role, TensorSpec

TABLES: dict[str, list[TensorSpec]] = {"rwkv7": rwkv7.TABLE, "rwkv6": rwkv6.TABLE}

__all__ = ["GLOBAL", "QUANTIZED_ROLES", "TABLES", "Role", "TensorSpec"]

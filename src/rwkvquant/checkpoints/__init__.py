"""Checkpoints of other tools, read with NumPy alone.

What is here is imported when it is first used: to read a packed file, the engine needs the names of two of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkvquant.checkpoints.checkpoint import Checkpoint, Edit, LogicalMatrix
    from rwkvquant.checkpoints.gguf_tokenizer import EmbeddedTokenizer
    from rwkvquant.checkpoints.open import open_checkpoint, open_text_checkpoint
    from rwkvquant.checkpoints.tensor_info import TensorInfo
    from rwkvquant.checkpoints.tokenizer_files import TokenizerFiles

_HOME_OF = {
    "Checkpoint": "checkpoint",
    "Edit": "checkpoint",
    "EmbeddedTokenizer": "gguf_tokenizer",
    "LogicalMatrix": "checkpoint",
    "TensorInfo": "tensor_info",
    "TokenizerFiles": "tokenizer_files",
    "open_checkpoint": "open",
    "open_text_checkpoint": "open",
}

__all__ = [
    "Checkpoint",
    "Edit",
    "EmbeddedTokenizer",
    "LogicalMatrix",
    "TensorInfo",
    "TokenizerFiles",
    "open_checkpoint",
    "open_text_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module rwkvquant.checkpoints has no attribute {name}")
    return getattr(importlib.import_module(f"rwkvquant.checkpoints.{_HOME_OF[name]}"), name)

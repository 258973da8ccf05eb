"""Checkpoints of other tools, read with NumPy alone."""

from rwkvquant.checkpoints.checkpoint import Checkpoint, LogicalMatrix
from rwkvquant.checkpoints.gguf_tokenizer import EmbeddedTokenizer
from rwkvquant.checkpoints.open import open_checkpoint, open_text_checkpoint
from rwkvquant.checkpoints.tensor_info import TensorInfo
from rwkvquant.checkpoints.tokenizer_files import TokenizerFiles

__all__ = ["Checkpoint", "EmbeddedTokenizer", "LogicalMatrix", "TensorInfo", "TokenizerFiles", "open_checkpoint", "open_text_checkpoint"]

"""The values of GGUF's block types (Q8_0, k-quants, ...), by the `gguf` package. The only file that imports it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.gguf_header import BlockType
from rwkvquant.errors import CheckpointError


def decode_blocks(kind: BlockType, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, bytes of a row) -> (rows, weights of a row). Raises CheckpointError where the package is missing."""
    try:
        from gguf import GGMLQuantizationType, dequantize
    except ImportError:
        raise CheckpointError(
            f"GGUF tensors of type {kind.name} are decoded by the gguf package; install it: pip install 'rwkv-hybridquant[gguf]'"
        ) from None
    with np.errstate(over="ignore", invalid="ignore"):  # a garbled scale may be infinite or NaN; the caller looks for that
        return np.asarray(dequantize(rows, GGMLQuantizationType(kind.number)), np.float32)

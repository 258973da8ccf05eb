"""Convert between the dtypes of checkpoints and float32. All readers and writers of checkpoints share this."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import CheckpointError

DTYPES = {"bfloat16": ("<u2", 2), "float16": ("<f2", 2), "float32": ("<f4", 4)}  # NumPy code, bytes


def as_float32(name: str, stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """A new array with the values of `stored`, whose NumPy code is DTYPES[dtype]. Raises CheckpointError for NaN or infinity.

    `name` is the tensor's, for the message.
    """
    values = widen_bfloat16(stored) if dtype == "bfloat16" else stored.astype(np.float32, order="C")
    # min and max keep NaN and infinity, and need no array of booleans as large as the embedding.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise CheckpointError(f"weights must be finite; {name} has {np.count_nonzero(~np.isfinite(values))} NaN or infinite values")
    return values


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The bits of bfloat16, which are the upper half of a float32 -> float32."""
    wide = bits.astype(np.uint32, order="C")
    wide <<= 16
    return wide.view(np.float32)


def as_stored(name: str, values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """`values` rounded to nearest, ties to even; bfloat16 as its bits (uint16).

    Raises CheckpointError for values beyond the dtype's range.
    """
    with np.errstate(over="ignore"):
        stored = _narrow_bfloat16(values) if dtype == "bfloat16" else np.ascontiguousarray(values, DTYPES[dtype][0])
    as_float32(name, stored, dtype)
    return stored


def _narrow_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def require_whole(mapping: mmap.mmap) -> None:
    """Raises CheckpointError if the file became shorter after it was mapped: reading the missing part would end the process (SIGBUS).

    Limit: a file that becomes shorter while a tensor is being read is not noticed. A new file with the same name does no harm.
    """
    if mapping.size() < len(mapping):
        raise CheckpointError("the file became shorter while it was read; wait until it is complete, and start again")

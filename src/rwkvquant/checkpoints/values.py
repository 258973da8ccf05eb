"""Numbers as checkpoints store them, and as float32: shared by the readers of every container."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import CheckpointError

DTYPES = {"bfloat16": ("<u2", 2), "float16": ("<f2", 2), "float32": ("<f4", 4)}  # NumPy code, bytes


def as_float32(name: str, stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """A new array with the values of `stored`, whose NumPy code is DTYPES[dtype]. Raises CheckpointError for NaN or infinity."""
    values = widen_bfloat16(stored) if dtype == "bfloat16" else stored.astype(np.float32, order="C")
    # NaN and infinity survive min and max, which need no array of booleans as large as the embedding.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise CheckpointError(f"weights must be finite; {name} has {np.count_nonzero(~np.isfinite(values))} NaN or infinite values")
    return values


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32, order="C")
    wide <<= 16
    return wide.view(np.float32)


def as_stored(name: str, values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Rounded to nearest, ties to even; bfloat16 as its bits. Raises CheckpointError for values beyond the dtype's range."""
    with np.errstate(over="ignore"):
        stored = _narrow_bfloat16(values) if dtype == "bfloat16" else np.ascontiguousarray(values, DTYPES[dtype][0])
    as_float32(name, stored, dtype)
    return stored


def _narrow_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def require_whole(mapping: mmap.mmap) -> None:
    """Raises CheckpointError if the file was cut since it was mapped: to touch what is gone would end the process (SIGBUS).

    A file that is cut while a tensor is being read is not noticed; a new file put in its place under the same name does no harm.
    """
    if mapping.size() < len(mapping):
        raise CheckpointError("the file became shorter while it was read; wait until it is complete, and start again")

"""One name for each operation, and the body that runs it: the native module where it is built, else NumPy.

    RWKVQUANT_KERNELS=reference              everything in NumPy, slowly and rightly
    RWKVQUANT_ISA=plain | avx2 | avx512      a native body other than the best one for this CPU

Both are read at the first call. Callers never say which body; results are the same bits in all of them.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.kernels import gemv_codebook as codebook_definition
from rwkvquant.kernels import gemv_uniform as uniform_definition

NATIVE_BITS = 3
NATIVE_TILE_COLS = 64


def backend() -> str:
    """What runs the native operations: "avx512", "avx2", "plain", or "reference" for NumPy."""
    native = _native()
    return "reference" if native is None else str(native.isa())


def gemv_uniform(
    codes: NDArray[np.uint8],
    scales: NDArray[Any],
    row_scale: NDArray[np.float16] | None,
    zeros: NDArray[np.uint8] | None,
    xq: NDArray[np.int8],
    xscale: NDArray[np.float32],
    rows: int,
    cols: int,
    group_size: int,
    bits: int = 3,
    tile_cols: int = 64,
) -> NDArray[np.float32]:
    """y (rows,) float32; see kernels/gemv_uniform.py. Native for 3 bits in tiles of 64 columns, NumPy for the rest."""
    out = np.empty(rows, np.float32)
    native = _native()
    if native is not None and bits == NATIVE_BITS and tile_cols == NATIVE_TILE_COLS and group_size % NATIVE_TILE_COLS == 0:
        native.gemv_uniform(codes, scales, row_scale, zeros, xq, xscale, rows, cols, group_size, out)
    else:
        uniform_definition.gemv_uniform(codes, scales, row_scale, zeros, xq, xscale, rows, cols, group_size, out, bits, tile_cols)
    return out


def gemv_codebook(
    codes: NDArray[np.uint8],
    codebooks: NDArray[np.uint8],
    row_scale: NDArray[np.float16],
    xq: NDArray[np.int8],
    xscale: NDArray[np.float32],
    rows: int,
    cols: int,
) -> NDArray[np.float32]:
    """y (rows,) float32; see kernels/gemv_codebook.py."""
    out = np.empty(rows, np.float32)
    body = _native() or codebook_definition
    body.gemv_codebook(codes, codebooks, row_scale, xq, xscale, rows, cols, out)
    return out


@functools.cache
def _native() -> ModuleType | None:
    """The native module set to the body asked for, or None. Raises ConfigError for a body that cannot run here."""
    kernels, isa = os.environ.get("RWKVQUANT_KERNELS", "native"), os.environ.get("RWKVQUANT_ISA")
    if kernels not in ("native", "reference"):
        raise ConfigError(f"RWKVQUANT_KERNELS must be native or reference; got {kernels}")
    if kernels == "reference":
        return None
    try:
        native = importlib.import_module("rwkvquant._native")  # by name: an import of the package would reach up to the pipeline
    except ImportError as error:
        if isa:
            raise ConfigError(f"RWKVQUANT_ISA={isa} needs the native module, which cannot be imported ({error}). Reinstall it.") from None
        warnings.warn(f"rwkvquant runs on NumPy alone, slowly: its native module cannot be imported ({error})", stacklevel=3)
        return None
    if isa:
        try:
            native.set_isa(isa)
        except ValueError as error:
            raise ConfigError(f"RWKVQUANT_ISA: {error}") from None
    return native

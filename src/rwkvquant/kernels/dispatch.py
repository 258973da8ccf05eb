"""One name for each operation, and the body that runs it: the native module where it is built, else NumPy.

    RWKVQUANT_KERNELS=reference              everything in NumPy, slowly and rightly
    RWKVQUANT_ISA=plain | avx2 | avx512      a native body other than the best one for this CPU; on ARM: plain | neon | i8mm

Both are read at the first call. Callers never say which body; results are the same bits in all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.kernels import product as definition
from rwkvquant.kernels.activations import ACTIVATION_GROUP
from rwkvquant.kernels.product import Matrix


def backend() -> str:
    """What runs the native operations: "avx512", "avx2", "plain" (on ARM "i8mm", "neon", "plain"), or "reference" for NumPy."""
    native = native_module()
    return "reference" if native is None else str(native.isa())


def product(matrix: Matrix, x: NDArray[np.float32], int8: bool = True) -> NDArray[np.float32]:
    """x (count, cols) -> out (count, rows) float32; see kernels/product.py. For tests and tools: the engine keeps its matrices."""
    native = native_module()
    return definition.product(matrix, x, int8) if native is None else native_product(native, matrix, x, int8)


def native_product(
    native: ModuleType, matrix: Matrix, x: NDArray[np.float32], int8: bool = True, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The same by the native module, with the body that it has been set to. `out` (count * rows,) is written, if given."""
    count, cols = x.shape
    groups = -(-cols // ACTIVATION_GROUP)
    padded = np.zeros((count, groups * ACTIVATION_GROUP), np.float32)
    padded[:, :cols] = x
    flat = padded.reshape(-1)
    q = scale = minus_sum = None
    if int8 and matrix.codec not in ("dense", "bfloat"):
        q, scale, minus_sum = np.empty(flat.size, np.int8), np.empty(count * groups, np.float32), np.empty(2 * count * groups, np.int32)
        native.quantize_activations(flat, count, cols, q, scale, minus_sum)
    out = np.empty(count * matrix.rows, np.float32) if out is None else out
    native.product(held(native, matrix), q, scale, minus_sum, flat, count, out, matrix.rows, 0, matrix.rows)
    return out.reshape(count, matrix.rows)


def held(native: ModuleType, matrix: Matrix) -> Any:
    """The native module's own description of a matrix, which keeps its arrays alive. Raises ValueError for arrays that do not fit."""
    return native.Matrix(**described(matrix))


def described(matrix: Matrix) -> dict[str, Any]:
    """The arguments of the native Matrix: its codec looks for the numbers and arrays that it has among these."""
    fields = {field.name: getattr(matrix, field.name) for field in dataclasses.fields(matrix)}
    arguments = {name: fields.pop(name) for name in ("codec", "rows", "cols")}
    return {**arguments, "arrays": dict(fields.pop("arrays")), "numbers": {name: int(value) for name, value in fields.items()}}


@functools.cache
def native_module() -> ModuleType | None:
    """The native module set to the body asked for; None, after one warning, where NumPy has to do.

    Raises ConfigError for a body that cannot run here.
    """
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

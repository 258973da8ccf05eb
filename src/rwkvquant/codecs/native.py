"""The product of a packed matrix by the native module, or by NumPy where that is missing. For tests and tools; the engine has its own."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.packing import PackedTensor
from rwkvquant.kernels.activations import ACTIVATION_GROUP
from rwkvquant.kernels.dispatch import native_module


def product(packed: PackedTensor, x: NDArray[np.float32], int8: bool = True) -> NDArray[np.float32]:
    """x (count, cols) -> (count, rows) float32; see kernels/product.py."""
    native = native_module()
    return packed.product(x, int8) if native is None or packed.native_form() is None else native_product(native, packed, x, int8)


def native_product(
    native: ModuleType, packed: PackedTensor, x: NDArray[np.float32], int8: bool = True, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The same by the native module, with the body that is chosen in it. If `out` (count * rows,) is given, the result is written to it."""
    return multiply(native, packed, packed.native(native), x, int8, out)


def multiply(
    native: ModuleType, packed: PackedTensor, matrix: Any, x: NDArray[np.float32], int8: bool = True, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The same with `matrix`, which is packed.native(native), for callers that keep it."""
    form, (rows, _), (count, cols) = packed.native_form(), packed.shape, x.shape
    assert form is not None, f"the native module has no product for {packed.layout}"
    groups = -(-cols // ACTIVATION_GROUP)
    padded = np.zeros((count, groups * ACTIVATION_GROUP), np.float32)
    padded[:, :cols] = x
    flat = padded.reshape(-1)
    q = scale = minus_sum = None
    if int8 and form.int8:
        q, scale, minus_sum = np.empty(flat.size, np.int8), np.empty(count * groups, np.float32), np.empty(2 * count * groups, np.int32)
        native.quantize_activations(flat, count, cols, q, scale, minus_sum)
    out = np.empty(count * rows, np.float32) if out is None else out
    native.product(matrix, q, scale, minus_sum, flat, count, out, rows, 0, rows)
    return out.reshape(count, rows)

"""Helpers of the kernel tests: every native body of this CPU, poisoned outputs between guard bands, and arrays at odd addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from rwkvquant import _native  # a missing native module fails every test that imports this file

GUARD = 32
SENTINEL = np.float32(-1234.5)


@contextmanager
def body(isa: str) -> Iterator[None]:
    before = _native.isa()
    _native.set_isa(isa)
    try:
        yield
    finally:
        _native.set_isa(before)


def on_every_body(run: Callable[[NDArray[np.float32]], None], rows: int) -> dict[str, NDArray[np.float32]]:
    """Outputs (rows,) by instruction set, after checking that exactly those rows were written."""
    results = {}
    for isa in _native.available_isas():
        memory = np.full(rows + 2 * GUARD, SENTINEL, np.float32)
        out = memory[GUARD : GUARD + rows]
        out[:] = np.nan
        with body(isa):
            run(out)
        assert (memory[:GUARD] == SENTINEL).all() and (memory[GUARD + rows :] == SENTINEL).all(), f"{isa} wrote outside of out"
        results[isa] = out.copy()
    return results


def assert_same_bits(results: dict[str, NDArray[np.float32]], want: NDArray[np.float32]) -> None:
    for isa, got in results.items():
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32), err_msg=isa)


def at_offset(array: NDArray, offset: int) -> NDArray:
    """A copy whose first byte is `offset` bytes after a multiple of 64."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype)
    copy[:] = array
    return copy

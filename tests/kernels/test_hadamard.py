"""The native Hadamard transform has the bits of its definition, on every body, for every kind of width."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels.hadamard import block, hadamard
from tests.kernels.guarded import assert_same_bits, at_offset, on_every_body

WIDTHS = [1, 2, 3, 4, 6, 8, 12, 15, 16, 24, 32, 40, 48, 56, 64, 96, 112, 128, 320, 512, 896, 1024, 1792, 4096]


def inputs(width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(width)
    x = random.standard_normal(width) * np.exp(3 * random.standard_normal(width))
    return x.astype(np.float32), random.integers(0, 256, -(-width // 8), dtype=np.uint8)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_body_has_the_bits_of_the_definition(width: int) -> None:
    x, signs = inputs(width)
    wanted = hadamard(x[None], signs)[0]
    for offset in (0, 4):
        moved, bits = at_offset(x, offset), at_offset(signs, offset // 4)
        assert_same_bits(on_every_body(lambda out, moved=moved, bits=bits: _native.hadamard(moved, bits, out), width), wanted)
    assert np.abs(np.linalg.norm(wanted.astype(np.float64)) / np.linalg.norm(x.astype(np.float64)) - 1) < 1e-6
    assert (block(width) == 1) == (width % 2 == 1)


@pytest.mark.parametrize("width", [6, 64, 896])
def test_the_result_may_replace_the_input(width: int) -> None:
    x, signs = inputs(width)

    def in_place(out: np.ndarray) -> None:
        out[:] = x
        _native.hadamard(out, signs, out)

    assert_same_bits(on_every_body(in_place, width), hadamard(x[None], signs)[0])


def test_wrong_sizes_are_refused() -> None:
    x, signs = inputs(24)
    for arguments in ((x, signs[:-1], np.empty_like(x)), (x, signs, np.empty(23, np.float32)), (x[:0], signs, np.empty(0, np.float32))):
        with pytest.raises(ValueError, match=r"\[hadamard\]"):
            _native.hadamard(*arguments)

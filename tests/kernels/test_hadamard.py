"""The native Hadamard transform has the bits of its definition, on every body, for every kind of width."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels import workshop
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
        assert_same_bits(on_every_body(lambda out, moved=moved, bits=bits: _native.hadamard(moved[None], bits, out[None]), width), wanted)
    assert np.abs(np.linalg.norm(wanted.astype(np.float64)) / np.linalg.norm(x.astype(np.float64)) - 1) < 1e-6
    assert (block(width) == 1) == (width % 2 == 1)


@pytest.mark.parametrize("width", [6, 64, 896])
def test_the_result_may_replace_the_input(width: int) -> None:
    x, signs = inputs(width)

    def in_place(out: np.ndarray) -> None:
        out[:] = x
        _native.hadamard(out[None], signs, out[None])

    assert_same_bits(on_every_body(in_place, width), hadamard(x[None], signs)[0])


def test_wrong_sizes_are_refused() -> None:
    x, signs = inputs(24)
    for values, bits, size in ((x, signs[:-1], 24), (x, signs, 23), (x[:0], signs, 0)):
        with pytest.raises(ValueError, match=r"\[hadamard\]"):
            _native.hadamard(values[None], bits, np.empty((1, size), np.float32))


@pytest.mark.parametrize("width", [3, 24, 512])
def test_rows_are_transformed_one_by_one(width: int) -> None:
    x = np.stack([inputs(width)[0] * size for size in (1, -3, 0, 1e-20, 1e20)])
    signs = inputs(width)[1]
    for rows in (x, x[:1], x[:0], x[:, ::-1], np.asfortranarray(x)):
        fast = workshop.hadamard(rows, signs)
        assert fast is not None
        assert_same_bits({"native": fast}, hadamard(rows, signs))


def test_the_definition_is_used_for_float64_and_without_the_native_module(monkeypatch: pytest.MonkeyPatch) -> None:
    x, signs = inputs(24)
    assert workshop.hadamard(x[None].astype(np.float64), signs) is None
    monkeypatch.setattr(workshop, "native_module", lambda: None)
    assert workshop.hadamard(x[None], signs) is None

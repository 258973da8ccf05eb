"""quantize_activations: known answers, and the error it promises."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels.activations import quantize_activations
from tests.kernels.guarded import body


def test_whole_numbers_up_to_127_are_kept() -> None:
    x = np.array([127, -127, 0, 1, -5], np.float32)
    xq, xscale = quantize_activations(x)
    assert xscale.tolist() == [1.0] and xscale.dtype == np.float32
    assert xq[:5].tolist() == [127, -127, 0, 1, -5] and xq.dtype == np.int8


def test_halves_round_to_even() -> None:
    xq, _ = quantize_activations(np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32))
    assert xq[:6].tolist() == [127, 0, 2, 2, 0, -2]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 128, 130])
def test_padding_is_zero_and_a_whole_group(length: int) -> None:
    xq, xscale = quantize_activations(np.ones(length, np.float32))
    groups = -(-length // 64)
    assert xq.shape == (64 * groups,) and xscale.shape == (groups,)
    assert xq.tolist() == [127] * length + [0] * (64 * groups - length)


def test_groups_have_their_own_scale_and_zeros_stay_zero() -> None:
    x = np.concatenate([np.full(32, 254.0), np.zeros(32), np.full(32, -1.27)]).astype(np.float32)
    xq, xscale = quantize_activations(x, group=32)
    np.testing.assert_array_equal(xscale, np.array([2, 0, np.float32(1.27) / np.float32(127)], np.float32))
    assert xq.tolist() == [127] * 32 + [0] * 32 + [-127] * 32


def test_the_error_is_at_most_half_a_step_and_odd_symmetry_holds() -> None:
    x = np.random.default_rng(0).standard_normal(6400).astype(np.float32)
    xq, xscale = quantize_activations(x)
    decoded = xq * xscale.astype(np.float64).repeat(64)
    assert (np.abs(decoded - x) <= xscale.repeat(64) * (0.5 + 127 * 2.0**-24)).all()  # the quotient rounds once
    np.testing.assert_array_equal(quantize_activations(-x)[0], -xq)


@pytest.mark.parametrize("power", range(-149, 128))
def test_every_magnitude_fits_int8(power: int) -> None:
    """Down to subnormals, where the scale is coarser than its own group's largest value."""
    for top in (1.0, 1.5, 190 / 128):
        x = np.ldexp(np.array([top, -top, top / 2]), power).astype(np.float32)
        xq, xscale = quantize_activations(x)
        assert np.isfinite(xscale).all() and xq[1] == -xq[0]
        if power > -120:
            assert xq[0] == 127


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_show_in_their_own_group(bad: float) -> None:
    x = np.ones(128, np.float32)
    x[3] = bad
    xq, xscale = quantize_activations(x)
    assert not np.isfinite(xscale[0]) and xscale[1] == np.float32(1) / np.float32(127)
    assert (xq[64:] == 127).all()


def natural_and_awkward() -> np.ndarray:
    """(vectors, 130): ordinary values of every magnitude, halves, zeros of both signs, subnormals, and values that are not finite."""
    rng = np.random.default_rng(3)
    rows = [np.ldexp(rng.standard_normal(130), power) for power in range(-149, 124, 3)]
    rows += [rng.integers(-254, 255, 130) / 2, np.zeros(130), np.full(130, -0.0), rng.integers(-5, 6, 130) * 2.0**-149]
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        rows.append(rng.standard_normal(130))
        rows[-1][[0, 70]] = bad, -bad
    return np.array(rows).astype(np.float32)


def test_every_native_body_gives_the_bits_of_the_definition() -> None:
    x = natural_and_awkward()
    padded = np.zeros((len(x), 192), np.float32)
    padded[:, :130] = x
    parts = [quantize_activations(vector) for vector in x]
    want_q, want_scale = (np.concatenate(part) for part in zip(*parts, strict=True))
    for isa in _native.available_isas():
        q, scale = np.full(padded.size + 8, 99, np.int8), np.full(3 * len(x) + 8, 99, np.float32)
        sums = np.full(6 * len(x) + 8, 99, np.int32)
        with body(isa):
            _native.quantize_activations(padded.reshape(-1), len(x), 130, q, scale, sums)
        np.testing.assert_array_equal(q[:-8], want_q, err_msg=isa)
        np.testing.assert_array_equal(scale[:-8], want_scale, err_msg=isa)
        halves = want_q.reshape(-1, 2, 32).sum(axis=2, dtype=np.int32)
        want_sums = -np.stack([halves.sum(axis=1), halves[:, 1]], axis=1).reshape(-1)
        np.testing.assert_array_equal(sums[:-8], want_sums, err_msg=isa)
        assert (q[-8:] == 99).all() and (scale[-8:] == 99).all() and (sums[-8:] == 99).all(), f"{isa} wrote outside"

"""Grids: the definition, known answers, and weights that are difficult for float16."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig
from rwkvquant.quantizers.uniform.grid import find_matrix_grids, find_row_scale, shrink_factors
from rwkvquant.quantizers.uniform.rtn import rtn
from tests.quantizers.uniform.definition import grid_by_definition, row_scales_by_definition

GRIDS = [
    GridConfig(bits, group_size, symmetric, scale_bits)
    for bits, group_size, symmetric, scale_bits in itertools.product((1, 2, 3, 4, 8), (32, 64), (True, False), (8, 16))
]
LARGEST = 65504.0
SMALLEST = 2.0**-24


def name(grid: GridConfig) -> str:
    return f"{grid.bits}bits-g{grid.group_size}-{'sym' if grid.symmetric else 'asym'}-scale{grid.scale_bits}"


def rows_of_every_kind(cols: int) -> np.ndarray:
    """Gaussian, shifted, one-sided, outlier, constants, zeros, ramp; float64."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((8, cols))
    W[1] += 3
    W[2] = abs(W[2])
    W[3, cols // 2] = 40
    W[4] = -0.7
    W[5] = 0
    W[6] = np.linspace(-1, 2, cols)
    W[7, :32] = 0
    return W


@pytest.mark.parametrize("clip_search", ["none", "weight", "hessian"])
@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_grids_are_the_definition(grid: GridConfig, clip_search: str) -> None:
    W = rows_of_every_kind(70)
    importance = np.random.default_rng(1).lognormal(0, 2, 70)
    result = find_matrix_grids(torch.from_numpy(W), grid, clip_search, torch.from_numpy(importance))
    row_scale = row_scales_by_definition(W, grid)
    if row_scale is not None:
        assert result.row_scale is not None
        assert np.array_equal(result.row_scale[:, 0].numpy(), row_scale.astype(np.float32))
    shrinks = (1.0,) if clip_search == "none" else shrink_factors(grid.bits)
    for r, group in itertools.product(range(len(W)), range(result.scale.shape[1])):
        columns = slice(group * grid.group_size, (group + 1) * grid.group_size)
        weights = importance[columns] if clip_search == "hessian" else None
        scale, zero = grid_by_definition(W[r, columns], grid, None if row_scale is None else row_scale[r], weights, shrinks)
        assert (float(result.scale[r, group]), float(result.zero[r, group])) == (scale, zero), (r, group)


def test_known_grid() -> None:
    """-1 .. 6 in 3 bits: step 1, zero 1, and every whole number is itself."""
    W = np.array([[-1.0, 0, 1, 2, 3, 4, 5, 6]])
    result = rtn(W, GridConfig(3, 32, scale_bits=16))
    assert result.codes.tolist() == [list(range(8))]
    assert result.zeros is not None and result.zeros.tolist() == [[1]]
    assert result.scales is not None and result.scales.tolist() == [[1.0]]
    symmetric = rtn(W - 3, GridConfig(3, 32, symmetric=True, scale_bits=16))  # -4 .. 3, step 2 * 4 / 7
    assert symmetric.scales is not None and symmetric.scales[0, 0] == np.float16(8 / 7)
    assert symmetric.codes.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_zero_is_always_decoded_as_zero(grid: GridConfig) -> None:
    W = rows_of_every_kind(70)
    W[:, ::3] = 0
    for clip_search in ("none", "weight"):
        assert not rtn(W, grid, clip_search).decode()[:, ::3].any()


@pytest.mark.parametrize("scale_bits", [8, 16])
@pytest.mark.parametrize("bits", range(1, 9))
def test_constant_groups_keep_their_value(bits: int, scale_bits: int) -> None:
    """A constant and 0 are the two ends of an asymmetric grid: exact except for the rounding of the scale."""
    W = np.repeat([[0.3], [-2.0], [0.0]], 64, axis=1)
    result = rtn(W, GridConfig(bits, 32, scale_bits=scale_bits))
    ends = np.where(W > 0, 2**bits - 1, 0)
    assert np.array_equal(result.codes[:2], ends[:2])
    rounding = 2**-11 if scale_bits == 16 else 0.5 / 254  # half a last place of float16; half a scale code near the largest
    np.testing.assert_allclose(result.decode(), W, rtol=rounding)


@pytest.mark.parametrize("clip_search", ["none", "weight"])
@pytest.mark.parametrize("size", [1e-30, 1e-8, 3e-7, 1e-5, 1e4, 1e6, 1e12, 1e30])
@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_tiny_and_huge_weights_stay_finite_and_get_no_worse_than_zero(grid: GridConfig, size: float, clip_search: str) -> None:
    """Where float16 has no fitting scale, weights go to the nearest values that can be stored."""
    W = (size * rows_of_every_kind(64)).astype(np.float32)
    result = rtn(W, grid, clip_search)
    decoded = result.decode()
    assert np.isfinite(decoded).all()
    assert (abs(decoded - W) <= abs(W) + 0.5 * result.group_scales().max(1, keepdims=True)).all()
    if clip_search == "weight" and size <= 1e12:
        plain = rtn(W, grid).decode()
        assert (np.square(decoded - W, dtype=np.float64).sum(1) <= np.square(plain - W, dtype=np.float64).sum(1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0, 1e3])
def test_scale_codes_lose_less_than_half_a_code(size: float) -> None:
    """Also where row_scale is one of float16's last few numbers: it is rounded up, so that code 255 reaches the largest scale."""
    W = torch.from_numpy(size * rows_of_every_kind(256))
    grid = GridConfig(3, 32)
    result = find_matrix_grids(W, grid)
    ideal = find_matrix_grids(W / size * 2.0**12, GridConfig(3, 32, scale_bits=16)).scale / 2.0**12 * size
    assert result.row_scale is not None
    codes = result.scale / result.row_scale
    assert float(codes.min()) >= 1 and float(codes.max()) <= 255
    reached = torch.maximum(ideal, result.row_scale)  # a code is at least 1
    assert ((result.scale - reached).abs() <= result.row_scale * 0.51 + 2**-10 * ideal).all()


def test_row_scale_is_clamped_to_float16() -> None:
    W = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e30, 0.0], [-3e38, 3e38]])
    result = find_row_scale(W, GridConfig(3, 32))
    assert result is not None and result[:, 0].tolist() == [SMALLEST, SMALLEST, LARGEST, LARGEST]


def test_a_short_last_group_is_like_a_separate_group() -> None:
    W = rows_of_every_kind(70)
    grid = GridConfig(3, 64, scale_bits=16)
    importance = np.arange(1.0, 71)
    whole = rtn(W, grid, "hessian", importance)
    tail = rtn(W[:, 64:], grid, "hessian", importance[64:])
    assert np.array_equal(whole.codes[:, 64:], tail.codes)
    assert whole.scales is not None and tail.scales is not None and np.array_equal(whole.scales[:, 1:], tail.scales)


def test_the_search_uses_the_importance_of_columns() -> None:
    """One outlier: kept when its column matters, clipped when it does not."""
    W = np.random.default_rng(0).standard_normal((1, 64))
    W[0, 10] = 12.0
    importance = np.ones(64)
    importance[10] = 1e4
    grid = GridConfig(3, 64)
    kept = rtn(W, grid, "hessian", importance).decode()[0, 10]
    clipped = rtn(W, grid, "hessian", 1 / importance).decode()[0, 10]
    assert abs(kept - 12) < 0.3 and clipped < 9


@pytest.mark.parametrize("chunk", [1, 100, 1 << 19])
def test_rows_may_be_cut_anywhere(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    W = rows_of_every_kind(70)
    expected = rtn(W, GridConfig(3, 32), "weight")
    monkeypatch.setattr("rwkvquant.quantizers.uniform.grid.CHUNK_WEIGHTS", chunk)
    result = rtn(W, GridConfig(3, 32), "weight")
    assert np.array_equal(result.codes, expected.codes) and np.array_equal(result.decode(), expected.decode())

"""RTN: every weight takes the nearest point of its stored grid."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.quantizers.uniform.rtn import rtn


def matrix(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def all_points(result: UniformTensor) -> np.ndarray:
    """(2**bits, rows, cols): every value a weight could have been decoded to."""
    parts = {"zeros": result.zeros, "scales": result.scales, "scale_codes": result.scale_codes, "row_scale": result.row_scale}
    codes = [np.full(result.shape, code, np.uint8) for code in range(2**result.bits)]
    return np.stack([UniformTensor(code, result.bits, result.group_size, **parts).decode() for code in codes])


@pytest.mark.parametrize("clip_search", ["none", "weight"])
@pytest.mark.parametrize("scale_bits", [8, 16])
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_no_code_is_nearer(bits: int, symmetric: bool, scale_bits: int, clip_search: str) -> None:
    W = matrix(5, 70)
    result = rtn(W, GridConfig(bits, 32, symmetric, scale_bits), clip_search)
    least = abs(all_points(result) - W).min(0)
    np.testing.assert_allclose(abs(result.decode() - W), least, atol=4e-7)  # float32's rounding of a tie


@pytest.mark.parametrize("shape", [(1, 1), (1, 31), (1, 768), (3, 32), (7, 33), (2, 100), (16, 65)])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_any_shape(shape: tuple[int, int], group_size: int) -> None:
    W = matrix(*shape)
    result = rtn(W, GridConfig(8, group_size))
    groups = -(-shape[1] // group_size)
    assert result.shape == shape and result.codes.dtype == np.uint8
    assert result.zeros is not None and result.zeros.shape == (shape[0], groups) and result.zeros.dtype == np.uint8
    assert result.scale_codes is not None and result.scale_codes.shape == (shape[0], groups) and result.scale_codes.dtype == np.uint8
    assert result.row_scale is not None and result.row_scale.shape == (shape[0],) and result.row_scale.dtype == np.float16
    np.testing.assert_allclose(result.decode(), W, atol=0.02)


def test_a_symmetric_grid_stores_no_zeros_and_half_scales_no_codes() -> None:
    result = rtn(matrix(3, 64), GridConfig(4, 32, symmetric=True, scale_bits=16))
    assert result.zeros is None and result.scale_codes is None and result.row_scale is None
    assert result.scales is not None and result.scales.dtype == np.float16 and result.scales.shape == (3, 2)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_clip_search_lowers_the_error_it_minimises(bits: int) -> None:
    W = matrix(20, 256)
    importance = np.random.default_rng(1).lognormal(0, 1, 256)
    grid = GridConfig(bits, 64)

    def error(clip_search: str, weights: np.ndarray | float) -> float:
        return float((weights * (rtn(W, grid, clip_search, importance).decode() - W) ** 2).sum())

    assert error("weight", 1.0) < error("none", 1.0)
    assert error("hessian", importance) < error("weight", importance) < error("none", importance)


def test_the_weights_are_not_changed() -> None:
    W = matrix(4, 70)
    before = W.copy()
    rtn(W, GridConfig(3, 32), "weight")
    assert np.array_equal(W, before)

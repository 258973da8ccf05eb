"""gemv_uniform, the definition, is the product of the decoded weights. test_product.py compares native bodies with it."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.kernels.gemv_uniform import gemv_uniform, pieces

GROUPS = [(64, 64), (64, 128), (32, 32), (32, 96), (32, 128)]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("tile_cols", "group_size"), GROUPS)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("wide_scales", [True, False], ids=["float16", "uint8"])
def test_the_definition_rounds_once_for_each_operation(
    bits: int, tile_cols: int, group_size: int, symmetric: bool, wide_scales: bool
) -> None:
    """Against code, zero and scale in float64, for every width, tile and group."""
    rng = np.random.default_rng(bits)
    rows, cols = 21, 230
    groups = -(-cols // group_size)
    codes, zeros = (rng.integers(0, 1 << bits, shape, dtype=np.uint8) for shape in ((rows, cols), (rows, groups)))
    scales = rng.random((rows, groups)).astype(np.float16) if wide_scales else rng.integers(0, 256, (rows, groups), dtype=np.uint8)
    row_scale = None if wide_scales else (rng.random(rows) + 0.1).astype(np.float16)
    xq, xscale = quantize_activations(rng.standard_normal(cols).astype(np.float32))
    out = np.empty(rows, np.float32)
    packed = [tiles.pack_tiles(codes, bits, tile_cols), tiles.pack_scales(scales)]
    packed += [None if row_scale is None else tiles.pack_row_scale(row_scale), None if symmetric else tiles.pack_zeros(zeros, bits)]
    gemv_uniform(*packed, xq, xscale, rows, cols, group_size, out, bits, tile_cols)

    group = np.arange(cols) // group_size
    zero = np.full(zeros.shape, 2 ** (bits - 1)) if symmetric else zeros.astype(np.int64)
    scale = scales.astype(np.float64) * (1 if row_scale is None else row_scale.astype(np.float64)[:, None])
    W = scale[:, group] * (codes.astype(np.float64) - zero[:, group])
    x = xq[:cols] * xscale.astype(np.float64).repeat(64)[:cols]
    operations = len(list(pieces(cols, group_size))) + 3  # the sums of the pieces, and three products
    assert (np.abs(out - W @ x) <= operations * 2.0**-24 * (np.abs(W) @ np.abs(x))).all()


def test_a_piece_crosses_no_group() -> None:
    assert list(pieces(200, 64)) == [(0, 64), (64, 128), (128, 192), (192, 200)]
    assert list(pieces(200, 96)) == [(0, 64), (64, 96), (96, 128), (128, 192), (192, 200)]
    assert list(pieces(20, 128)) == [(0, 20)]

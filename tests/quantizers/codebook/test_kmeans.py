"""Codebooks as stored: every code is the nearest stored centroid, and scales are large enough, also at edges and for zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.codecs import PackedTensor
from rwkvquant.quantizers.codebook.kmeans import join_blocks, kmeans_codebooks, split_blocks
from tests.quantizers.codebook.definition import code_by_definition, kmeans_by_definition, row_scales_by_definition


def weights(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.05 * rng.standard_normal((rows, cols)) * rng.lognormal(0, 0.5, (rows, 1))


@pytest.mark.parametrize("importance", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("shape", [(4, 16), (3, 13), (1, 1), (5, 8), (2, 9)], ids=str)
def test_codebooks_are_the_definition(shape: tuple[int, int], importance: bool) -> None:
    W = weights(*shape)
    p = np.random.default_rng(1).lognormal(0, 1, shape[1]) if importance else np.ones(shape[1])
    q = kmeans_codebooks(W, bits=2, group_cols=8, importance=p if importance else None)
    row_scale = row_scales_by_definition(W, 4, 2, 8, p)
    np.testing.assert_array_equal(q.row_scale, row_scale)
    s = row_scale.astype(np.float64)[:, None]
    for i, j in np.ndindex(q.codebooks.shape[:2]):
        block = np.s_[2 * i : 2 * i + 2, 8 * j : 8 * j + 8]
        x, w = (W / s)[block], (p * s**2)[block]
        c = q.codebooks[i, j].astype(float) - 64
        expected = kmeans_by_definition(x.ravel(), w.ravel(), 4, whole=True)
        nearest = [min(abs(value - c)) for value in x.ravel()], [min(abs(value - expected)) for value in x.ravel()]
        costs = [(w.ravel() * np.square(distance)).sum() for distance in nearest]
        assert costs[0] == pytest.approx(costs[1], rel=1e-9, abs=1e-12)
        codes = [code_by_definition(value, c) for value in x.ravel()]
        np.testing.assert_array_equal(c[q.codes[block].ravel()], c[codes])


@pytest.mark.parametrize("shape", [(2, 32), (7, 40), (33, 100)], ids=str)
def test_odd_shapes_are_stored_and_read_back(shape: tuple[int, int]) -> None:
    q = kmeans_codebooks(weights(*shape).astype(np.float32))
    assert q.codebooks.max() <= 127 and q.codes.max() <= 7
    packed = PackedTensor.pack(q)
    back = packed.unpack()
    np.testing.assert_array_equal(back.decode(), q.decode())


def test_weights_that_centroids_can_represent_are_exact() -> None:
    """Eight values in each block, whole multiples of the row's scale; the outermost are 63 and -64 times the scale, or nearer to 0."""
    rng = np.random.default_rng(0)
    values = np.array([-64, -30, -7, 0, 1, 12, 40, 63])
    row = values[np.concatenate([rng.permutation(8) for _ in range(8)])]
    W = np.stack([row, row[::-1]]) * 2.0**-9
    q = kmeans_codebooks(W)
    np.testing.assert_array_equal(q.decode(), W)


def test_rows_of_unequal_size_share_the_shape_of_a_codebook() -> None:
    """A row has the same result next to a smaller copy of itself as next to an equal copy."""
    row = weights(1, 64)[0]
    alike, unlike = kmeans_codebooks(np.stack([row, row])), kmeans_codebooks(np.stack([row, row / 8]))
    np.testing.assert_array_equal(alike.decode()[0], unlike.decode()[0])
    np.testing.assert_array_equal(unlike.decode()[0], 8 * unlike.decode()[1])


def test_zeros_stay_zeros() -> None:
    W = weights(4, 64)
    W[2:], W[:2, :32] = 0, 0
    decoded = kmeans_codebooks(W).decode()
    assert not decoded[2:].any() and not decoded[:2, :32].any() and decoded[:2, 32:].any()


def test_importance_is_what_is_minimised() -> None:
    W = weights(8, 96)
    p = np.where(np.arange(96) % 3 == 0, 100.0, 1.0)
    plain, weighted = (((kmeans_codebooks(W, importance=i).decode() - W) ** 2 * p).sum() for i in (None, p))
    assert weighted < 0.7 * plain


def test_importance_zero_is_harmless() -> None:
    W = weights(4, 64)
    np.testing.assert_array_equal(kmeans_codebooks(W, importance=np.zeros(64)).decode(), kmeans_codebooks(W).decode())
    p = np.where(np.arange(64) < 8, 1.0, 0.0)  # eight columns of two rows: 16 points for 8 centroids
    assert np.isfinite(kmeans_codebooks(W, importance=p).decode()).all()


@pytest.mark.parametrize("size", [1e-9, 1e6], ids=["below float16", "above float16"])
def test_sizes_beyond_float16_stay_finite(size: float) -> None:
    assert np.isfinite(kmeans_codebooks(size * weights(2, 32)).decode()).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 32), (5, 70)], ids=str)
def test_join_undoes_split(shape: tuple[int, int]) -> None:
    W = torch.arange(shape[0] * shape[1]).view(shape).double()
    assert torch.equal(join_blocks(split_blocks(W, 2, 32), shape, 2, 32), W)

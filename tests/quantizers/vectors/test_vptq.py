"""VPTQ against its definition: nearest entries one column after the other, with the inverse made again for each, and weighted k-means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rwkvquant.codecs import VectorsConfig
from rwkvquant.quantizers import QuantizerOptions, quantizer_for
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_error
from rwkvquant.quantizers.vectors.clustering import nearest_vectors, vector_kmeans
from rwkvquant.quantizers.vectors.vptq import fit_tables
from tests.quantizers.examples import matrix_and_hessian

Array = NDArray[np.float64]
DAMPING = 0.05


def example(seed: int, rows: int = 22, cols: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, rows, cols)
    return torch.from_numpy(W), torch.from_numpy(H)


def by_columns(W: Array, H: Array, tables: list[Array], act_order: bool) -> Array:
    """Column by column with explicit inverses. Vectors that end beyond the matrix repeat its last row."""
    damped, w, Q, length = H + DAMPING * H.diagonal().mean() * np.eye(len(H)), W.copy(), np.empty_like(W), tables[0].shape[1]
    order = np.argsort(-H.diagonal(), kind="stable").tolist() if act_order else list(range(len(H)))
    for i, q in enumerate(order):
        for start in range(0, len(W), length):
            rows = np.minimum(np.arange(start, start + length), len(W) - 1)
            left = w[rows, q]
            for table in tables:
                left = left - table[((table - left) ** 2).sum(1).argmin()]
            inside = min(length, len(W) - start)
            Q[start : start + inside, q] = (w[rows, q] - left)[:inside]
        left_columns = order[i:]
        inverse = np.linalg.inv(damped[np.ix_(left_columns, left_columns)])
        w[:, left_columns[1:]] -= np.outer((w[:, q] - Q[:, q]) / inverse[0, 0], inverse[0, 1:])
    return Q


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("codec", [VectorsConfig(4, 5, 3), VectorsConfig(2, 4, 0), VectorsConfig(8, 6, 4)], ids=str)
def test_vptq_is_its_definition(codec: VectorsConfig, act_order: bool) -> None:
    W, H = example(0)
    tables = fit_tables(W, codec, H.diagonal())
    options = QuantizerOptions("tuned", "none", act_order, DAMPING)
    result = quantizer_for("vptq", codec)(W, Hessian(H, W.dtype), codec, options)
    expected = by_columns(W.numpy(), H.numpy(), [table.numpy() for table in tables], act_order)
    np.testing.assert_allclose(result.decode(), expected, atol=1e-6)
    assert (result.residual_codes is None) == (codec.residual_bits == 0)


def test_feedback_and_a_second_table_lose_less() -> None:
    for seed in range(3):
        W, H = example(seed, 64, 96)
        options, hessian = QuantizerOptions("tuned", "none", True, DAMPING), Hessian(H, W.dtype)

        def loss(
            method: str, codec: VectorsConfig, W: torch.Tensor = W, hessian: Hessian = hessian, options: QuantizerOptions = options
        ) -> float:
            return hessian_error(W, quantizer_for(method, codec)(W, hessian, codec, options).decode(), hessian.H)

        one, two = VectorsConfig(4, 6, 0), VectorsConfig(4, 6, 4)
        assert loss("vptq", one) < loss("kmeans", one) and loss("vptq", two) < 0.7 * loss("vptq", one)


def test_clustering_is_weighted_and_ends_where_every_centroid_is_the_mean_of_its_points() -> None:
    random = torch.Generator().manual_seed(0)
    x, p = torch.randn(3000, 4, dtype=torch.float64, generator=random), torch.rand(3000, dtype=torch.float64, generator=random)
    centroids = vector_kmeans(x, p, 16)
    codes = nearest_vectors(x, centroids)
    assert torch.equal(codes, (x[:, None] - centroids).square().sum(2).argmin(1))
    for k in range(16):
        mine = codes == k
        mean = (p[mine, None] * x[mine]).sum(0) / p[mine].sum()
        assert (mean - centroids[k]).norm() < 0.1  # Lloyd's iteration has nearly ended
    cost = float((p * (x - centroids[codes]).square().sum(1)).sum())
    for seed in range(5):  # not far from the best of random starts
        other = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:16]].clone()
        for _ in range(30):
            of = nearest_vectors(x, other)
            other = torch.stack([(p[of == k, None] * x[of == k]).sum(0) / p[of == k].sum() for k in range(16)])
        assert cost < 1.05 * float((p * (x - other[nearest_vectors(x, other)]).square().sum(1)).sum())
    heavy = torch.where(torch.arange(3000) < 20, 1e6, 1e-6).double()
    near = vector_kmeans(x, heavy, 16)
    assert (x[:20] - near[nearest_vectors(x[:20], near)]).square().sum() < 0.2 * x[:20].square().sum()


def test_few_points_equal_points_and_points_without_weight_do_no_harm() -> None:
    W, H = example(1, 3, 8)
    codec = VectorsConfig(4, 8, 8)  # far more entries than vectors
    for weights in (W, torch.zeros_like(W), torch.ones_like(W)):
        q = quantizer_for("vptq", codec)(weights, Hessian(H, W.dtype), codec, QuantizerOptions())
        assert np.isfinite(q.decode()).all() and np.abs(q.decode() - weights.numpy()).max() < 0.5
    assert torch.isfinite(vector_kmeans(torch.randn(9, 2), torch.zeros(9), 4)).all()
    dead = quantizer_for("vptq", codec)(W, Hessian(torch.zeros_like(H), W.dtype), codec, QuantizerOptions())
    assert np.isfinite(dead.decode()).all()

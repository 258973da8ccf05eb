"""GPTVQ as RWKVQuant ran it: the walk is its definition, the M-step follows the gradient, and codes never change after it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.codecs import CodebookTensor
from rwkvquant.quantizers.codebook.gptvq import gptvq
from rwkvquant.quantizers.codebook.paper import _m_step, _set_gradients, gptvq_paper, kmeans_paper
from rwkvquant.quantizers.codebook.table_map import table_map
from rwkvquant.quantizers.shared.clustering import lloyd_kmeans
from rwkvquant.quantizers.shared.loss import hessian_error
from tests.quantizers.codebook.definition import code_by_definition
from tests.quantizers.examples import matrix_and_hessian


def walk_by_definition(W: np.ndarray, H: np.ndarray, group_rows: int, damping: float) -> np.ndarray:
    """Codes, and real tables in the units of W, fitted without importance when a column block begins."""
    rows, cols = W.shape
    H, W = H + damping * H.diagonal().mean() * np.eye(cols), W.copy()
    codes, tables = np.zeros((rows, cols), np.uint8), {}
    for q in range(cols):
        for block, top in enumerate(range(0, rows, group_rows)):
            if q % 32 == 0:
                x = torch.from_numpy(W[top : top + group_rows, q : q + 32].reshape(1, -1))
                tables[block] = lloyd_kmeans(x, torch.ones_like(x), 8, "mahalanobis", 100)[0].numpy()
        Hinv = np.linalg.inv(H[q:, q:])
        for r in range(rows):
            c = tables[r // group_rows]
            codes[r, q] = code_by_definition(W[r, q], c)
            W[r, q:] -= (W[r, q] - c[codes[r, q]]) / Hinv[0, 0] * Hinv[0]
    return codes


@pytest.mark.parametrize("rank", [0, None])
def test_codes_are_those_of_the_walk(rank: int | None) -> None:
    W, H = matrix_and_hessian(1, 6, 64)
    np.testing.assert_array_equal(gptvq_paper(W, H, rank=rank).codes, walk_by_definition(W, H, 2, 0.01))


@pytest.mark.parametrize("rank", [0, 2])
def test_the_gradient_is_that_of_the_loss(rank: int) -> None:
    W, H = (torch.from_numpy(a) for a in matrix_and_hessian(2, 4, 40))
    codes = np.random.default_rng(0).integers(0, 8, (4, 40), np.uint8)
    q = CodebookTensor(codes, 3, np.zeros((2, 2, 8), np.uint8), np.ones(4, np.float16))
    tables = table_map(q, W)
    shapes = [(4, rank), (rank, 8)] if rank else [(4, 8)]
    factors = [torch.randn(shape, dtype=W.dtype) for shape in shapes]
    loss = _set_gradients(W, H, tables, factors)
    copies = [factor.clone().requires_grad_() for factor in factors]
    E = W - tables.spread(copies[0] @ copies[1] if rank else copies[0])
    total = ((E @ H) * E).sum()
    total.backward()
    np.testing.assert_allclose(loss, float(total.detach()), rtol=1e-9)
    for factor, other in zip(factors, copies, strict=True):
        assert factor.grad is not None and other.grad is not None
        np.testing.assert_allclose(factor.grad.numpy(), other.grad.numpy(), rtol=1e-6, atol=1e-9)


def test_the_m_step_gains_or_changes_nothing() -> None:
    W, H = (torch.from_numpy(a) for a in matrix_and_hessian(3, 8, 64))
    q = gptvq_paper(W, H, rank=0)
    tables = table_map(q, W)
    start = [0.9 * (torch.from_numpy(q.codebooks.astype(float)) - 64).flatten(0, 1) * 0.02]

    def loss(factors: list[torch.Tensor]) -> float:
        return _set_gradients(W, H, tables, factors)

    moved = _m_step(W, H, tables, start)
    assert loss(moved) < loss(start)
    nothing = _m_step(W, 0 * H, tables, start)  # no rate gains anything
    assert torch.equal(nothing[0], start[0])


@pytest.mark.parametrize(("bits", "group_rows", "rank"), [(3, 2, None), (3, 4, 0), (2, 8, None), (4, 4, None)])
def test_what_is_stored_is_consistent(bits: int, group_rows: int, rank: int | None) -> None:
    W, H = matrix_and_hessian(4, 9, 70)
    for q in (gptvq_paper(W, H, bits, group_rows, rank=rank), kmeans_paper(W, bits, group_rows, rank=rank)):
        assert q.codebooks.shape == (-(-9 // group_rows), 3, 2**bits) and hessian_error(W, q.decode(), H) < 1
        if rank == 0:
            assert q.factors is None
        else:
            assert q.factors is not None and q.factors.basis.shape == (2**bits // 2, 2**bits)
            np.testing.assert_array_equal(q.codebooks, q.factors.centroids())


def test_it_loses_more_than_the_tuned_method() -> None:
    W, H = matrix_and_hessian(5, 16, 128, tokens=2000)
    paper, tuned = gptvq_paper(W, H), gptvq(W, H, rank=4)
    assert hessian_error(W, tuned.decode(), H) < 0.8 * hessian_error(W, paper.decode(), H)
    assert hessian_error(W, paper.decode(), H) < hessian_error(W, kmeans_paper(W).decode(), H)

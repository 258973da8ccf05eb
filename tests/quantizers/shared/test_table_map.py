"""The map from tables to weights, its transpose, and least squares under the Hessian."""

from __future__ import annotations

import numpy as np
import torch

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor, PairCodebookTensor
from rwkvquant.quantizers.codebook.table_map import table_map as codebook_map
from rwkvquant.quantizers.pairs.table_map import column_map
from rwkvquant.quantizers.pairs.table_map import table_map as pair_map
from rwkvquant.quantizers.shared.table_map import TableMap, least_squares
from tests.quantizers.examples import matrix_and_hessian


def maps() -> list[tuple[TableMap, CodebookTensor | PairCodebookTensor]]:
    rng = np.random.default_rng(0)
    scale = rng.random(9).astype(np.float16)
    like = torch.zeros(1, dtype=torch.float64)
    codebook = CodebookTensor(rng.integers(0, 8, (9, 21), np.uint8), 3, rng.integers(0, 128, (3, 2, 8), np.uint8), scale, 4, 16)
    pairs = PairCodebookTensor(rng.integers(0, 16, (9, 11), np.uint8), 4, rng.integers(0, 128, (3, 16, 2), np.uint8), scale, 21, 4)
    return [(codebook_map(codebook, like), codebook), (pair_map(pairs, like), pairs)]


def test_spreading_the_stored_tables_is_decoding() -> None:
    for tables, q in maps():
        stored = torch.from_numpy(q.codebooks.astype(float)) - CENTROID_ZERO
        np.testing.assert_allclose(tables.spread(stored).numpy(), q.decode(), rtol=1e-6)


def test_the_map_of_pairs_column_first_and_to_some_rows_are_the_same_map() -> None:
    tables, q = maps()[1]
    assert isinstance(q, PairCodebookTensor)
    like, t = torch.zeros(1, dtype=torch.float64), torch.randn(q.codebooks.shape, dtype=torch.float64)
    assert torch.equal(column_map(q, like).spread(t).T, tables.spread(t))
    rows = torch.tensor([8, 3, 4])
    assert torch.equal(pair_map(q, like, rows).spread(t), tables.spread(t)[rows])


def test_gathering_is_the_transpose() -> None:
    for tables, q in maps():
        t, e = torch.randn(q.codebooks.shape, dtype=torch.float64), torch.randn(q.shape, dtype=torch.float64)
        np.testing.assert_allclose(float((tables.spread(t) * e).sum()), float((t * tables.gather(e)).sum()), rtol=1e-9)


def test_weights_are_the_diagonal_of_the_normal_equations() -> None:
    diagonal = torch.rand(21, dtype=torch.float64)
    for tables, q in maps():
        one = torch.zeros(q.codebooks.shape, dtype=torch.float64)
        for index in [(0, 0, 1), (2, 1, 0), (1, 1, 1)]:
            one.zero_()[index] = 1
            expected = (tables.spread(one).square() * diagonal).sum()
            np.testing.assert_allclose(float(tables.weights(diagonal)[index]), float(expected), rtol=1e-9)


def test_conjugate_gradients_find_the_least_squares_solution() -> None:
    W, H = (torch.from_numpy(a) for a in matrix_and_hessian(1, 9, 21))
    for tables, _ in maps():
        count = int(np.prod(tables.shape))
        A = torch.stack([tables.spread(one.view(tables.shape)) for one in torch.eye(count, dtype=W.dtype)], -1)  # (rows, cols, tables)
        L = torch.linalg.cholesky(H)
        solution = np.linalg.lstsq((L.T @ A).flatten(0, 1).numpy(), (W @ L).flatten().numpy(), rcond=None)[0]
        for independent in (0, 1):  # row blocks are independent, so both must end with the same loss
            result = least_squares(tables.gather(W @ H), H, tables.spread, tables.gather, lambda g: g, independent, 3 * count)
            left = [tables.spread(t) - W for t in (result, torch.from_numpy(solution).view(tables.shape))]
            losses = [float(((e @ H) * e).sum()) for e in left]
            np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)

"""Coordinate descent: a pass is the definition, code for code; it never loses, and ends where no single code can gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig
from rwkvquant.quantizers.codebook import descent as codebook_descent
from rwkvquant.quantizers.codebook.gptvq import gptvq
from rwkvquant.quantizers.pairs import descent as pairs_descent
from rwkvquant.quantizers.pairs.gptvq import gptvq_pairs
from rwkvquant.quantizers.shared.descent import descend
from rwkvquant.quantizers.shared.loss import hessian_error, row_losses
from rwkvquant.quantizers.uniform import descent as uniform_descent
from rwkvquant.quantizers.uniform.gptq import gptq
from rwkvquant.quantizers.uniform.rtn import rtn
from tests.quantizers.examples import matrix_and_hessian

KINDS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "uniform": lambda W, H: gptq(W, H, GridConfig(3, 32)),
    "uniform_16": lambda W, H: rtn(torch.from_numpy(W), GridConfig(2, 64, True, 16)),
    "codebook": lambda W, H: gptvq(W, H, rounds=0),
    "compressed": lambda W, H: gptvq(W, H, group_rows=4, rank=2, rounds=0),
    "pairs": lambda W, H: gptvq_pairs(W, H, bits=4, rounds=0),
}

STEPS: dict[str, Any] = {
    "uniform": uniform_descent.STEPS,
    "uniform_16": uniform_descent.STEPS,
    "codebook": codebook_descent.STEPS,
    "compressed": codebook_descent.STEPS,
    "pairs": pairs_descent.STEPS,
}


def one_pass_by_definition(W: np.ndarray, H: np.ndarray, q: Any) -> np.ndarray:
    """Every code in turn, column by column: try all its values, each with the whole loss of its row."""
    count = 2**q.bits
    codes = q.codes.copy()
    values = [replace(q, codes=np.full_like(q.codes, code)).decode().astype(np.float64) for code in range(count)]
    width = 2 if q.codes.shape[1] < W.shape[1] else 1
    for j in range(codes.shape[1]):
        columns = slice(width * j, min(width * j + width, W.shape[1]))
        Q = replace(q, codes=codes).decode().astype(np.float64)
        for r in range(len(W)):
            losses = []
            for code in range(count):
                e = W[r] - Q[r]
                e[columns] = W[r, columns] - values[code][r, columns]
                losses.append(e @ H @ e)
            best = int(np.argmin(losses))
            if losses[best] < losses[codes[r, j]] * (1 - 1e-12):
                codes[r, j] = best
    return codes


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_is_the_definition(kind: str) -> None:
    W, H = matrix_and_hessian(1, 6, 37 if kind == "pairs" else 40)
    q = KINDS[kind](W, H)
    expected = one_pass_by_definition(W, H, q)
    result = descend(STEPS[kind], torch.from_numpy(W), torch.from_numpy(H), q)
    assert (expected != q.codes).any()
    np.testing.assert_array_equal(result.decode(), replace(q, codes=expected).decode())  # equal centroids may have different codes


@pytest.mark.parametrize("kind", KINDS)
def test_many_columns_are_also_the_definition(kind: str) -> None:
    """More columns than one block, whose gradient is kept up to date at once."""
    W, H = matrix_and_hessian(2, 3, 140)
    q = KINDS[kind](W, H)
    result = descend(STEPS[kind], torch.from_numpy(W), torch.from_numpy(H), q)
    np.testing.assert_array_equal(result.decode(), replace(q, codes=one_pass_by_definition(W, H, q)).decode())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_loses_and_every_pass_gains(kind: str, dtype: torch.dtype) -> None:
    W, H = matrix_and_hessian(3, 20, 70)
    q = KINDS[kind](W, H)
    W, H = torch.from_numpy(W).to(dtype), torch.from_numpy(H)
    losses = [row_losses(W, descend(STEPS[kind], W, H, q, passes).decode(), H) for passes in (0, 1, 3)]
    assert bool((losses[1] <= losses[0]).all()) and bool((losses[2] <= losses[1]).all())
    assert float(losses[2].sum()) < float(losses[1].sum()) < float(losses[0].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_where_no_single_code_can_gain(kind: str) -> None:
    W, H = matrix_and_hessian(4, 4, 30)
    q = descend(STEPS[kind], torch.from_numpy(W), torch.from_numpy(H), KINDS[kind](W, H), passes=50)
    np.testing.assert_array_equal(replace(q, codes=one_pass_by_definition(W, H, q)).decode(), q.decode())


@pytest.mark.parametrize("kind", KINDS)
def test_dead_columns_keep_their_codes(kind: str) -> None:
    W, H = matrix_and_hessian(5, 6, 40)
    for column in (3, 8, 9):
        H[column], H[:, column] = 0, 0
    q = KINDS[kind](W, H)
    result = descend(STEPS[kind], torch.from_numpy(W), torch.from_numpy(H), q, 2)
    assert np.isfinite(result.decode()).all()
    np.testing.assert_array_equal(result.decode()[:, 8:10], q.decode()[:, 8:10])
    assert hessian_error(W, result.decode(), H) < hessian_error(W, q.decode(), H)

"""The inverse by halves is the inverse, for every size of the smallest halves."""

from __future__ import annotations

import pytest
import torch

from rwkvquant.quantizers.shared import inverse
from rwkvquant.quantizers.shared.factor import factorize
from tests.quantizers.examples import matrix_and_hessian


@pytest.mark.parametrize("small", [1, 4, 16])
@pytest.mark.parametrize("n", [1, 2, 5, 17, 40])
def test_halves_give_the_inverse(monkeypatch: pytest.MonkeyPatch, n: int, small: int) -> None:
    monkeypatch.setattr(inverse, "SMALL", small)
    H = torch.from_numpy(matrix_and_hessian(1, 2, max(n, 8))[1])[:n, :n]
    result = inverse.inverse_cholesky(H)
    assert result is not None
    torch.testing.assert_close(result.T @ result, torch.linalg.inv(H), rtol=1e-8, atol=1e-10)
    assert torch.equal(result, result.tril()) and bool((result.diagonal() > 0).all())


@pytest.mark.parametrize("bad", [0, 7, 11])
def test_a_matrix_that_is_not_positive_definite_has_none_in_any_half(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    monkeypatch.setattr(inverse, "SMALL", 3)
    H = torch.from_numpy(matrix_and_hessian(2, 2, 12)[1])
    H[bad, bad] = -1
    assert inverse.inverse_cholesky(H) is None


def test_gptq_gets_the_same_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    H = torch.from_numpy(matrix_and_hessian(3, 2, 70)[1])
    whole = factorize(H, damping=0.01, act_order=True)
    monkeypatch.setattr(inverse, "SMALL", 8)
    halves = factorize(H, damping=0.01, act_order=True)
    torch.testing.assert_close(halves.U, whole.U, rtol=1e-8, atol=1e-10)
    assert torch.equal(halves.order, whole.order)

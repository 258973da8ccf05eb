"""A power of two for some columns: the product stays, only these columns are stored, and a damaged array is refused."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.errors import FormatError
from rwkvquant.transforms.column_power import COLUMN_POWER, LARGEST


def example() -> np.ndarray:
    exponents = np.zeros(12, np.int32)
    exponents[[2, 11]] = 9, -4
    return exponents


def test_the_product_and_the_hessian_are_exactly_those_of_the_plain_matrix() -> None:
    random = np.random.default_rng(0)
    W, X = random.standard_normal((5, 12)), random.standard_normal((40, 12))
    applied = COLUMN_POWER.of(example())
    assert applied.arrays["pairs"].tolist() == [2, 9, 11, -4] and applied.values == {"count": 2}
    assert np.array_equal(applied.weights(W), W * 2.0 ** example()) and np.array_equal(applied.undone(applied.weights(W)), W)
    changed = applied.activations(X)
    assert np.array_equal(changed, X / 2.0 ** example()) and np.allclose(changed @ applied.weights(W).T, X @ W.T)
    assert np.allclose(applied.hessian(X.T @ X), changed.T @ changed)
    assert COLUMN_POWER.sizes(applied.values, 12) == {"pairs": (np.int32, 4)} and COLUMN_POWER.flops(12, applied.values) == 2
    native = applied.native(12)
    assert native is not None and np.array_equal(native["divisors"], (2.0 ** example()).astype(np.float32))
    assert np.array_equal(COLUMN_POWER.make(12, 0).weights(W), W)


@pytest.mark.parametrize(
    "pairs", [[2, 9, 12, -4], [-1, 9, 11, -4], [11, 9, 2, -4], [2, 9, 2, -4], [2, LARGEST + 1, 11, -4], [2, 9, 11, -99]]
)
def test_pairs_that_cannot_be_are_refused_and_do_no_harm(pairs: list[int]) -> None:
    arrays = {"pairs": np.array(pairs, np.int32)}
    with pytest.raises(FormatError, match="of column-power must"):
        COLUMN_POWER.check_arrays({"count": 2}, 12, arrays)
    assert np.isfinite(COLUMN_POWER.undone(np.ones((1, 12), np.float32), {"count": 2}, arrays)).all()
    COLUMN_POWER.check_arrays({"count": 2}, 12, {"pairs": np.array([2, 9, 11, -4], np.int32)})


@pytest.mark.parametrize("count", [-1, 13])
def test_there_are_at_most_as_many_pairs_as_columns(count: int) -> None:
    with pytest.raises(FormatError, match="count of column-power must be 0 to the width, 12"):
        COLUMN_POWER.check({"count": count}, 12)
    COLUMN_POWER.check({"count": 12}, 12)

"""Columns that are far out of line come to the size of the others; all others stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.quantizers.shared.balance import FAR, LARGEST, balance


def matrix(rows: int = 40, cols: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, cols)).astype(np.float32)


def test_a_matrix_whose_columns_are_in_line_has_no_scale() -> None:
    W = matrix()
    assert balance([W]) is None
    W[:, 3] /= 0.9 * FAR * np.sqrt(np.square(W[:, 3]).mean())
    assert balance([W]) is None


@pytest.mark.parametrize("size", [2.0**-9, 1 / 11, 1 / 10, 12.0, 2.0**10])
def test_a_column_out_of_line_is_scaled_by_the_nearest_power_of_two(size: float) -> None:
    W = matrix()
    W /= np.sqrt(np.square(W).mean(0))
    W[:, 5] *= size
    e = balance([W])
    assert e is not None and e[5] == np.round(-np.log2(size)) and (np.delete(e, 5) == 0).all()


def test_rows_of_any_size_do_not_hide_a_column() -> None:
    W = matrix()
    W[:, 5] /= 64
    W[7] *= 4096
    W[8] = 0
    e = balance([W])
    assert e is not None and e[5] in (5, 6, 7) and (np.delete(e, 5) == 0).all()


def test_products_with_one_input_have_one_scale_and_count_alike() -> None:
    first, second = matrix(40), 1000 * matrix(8)
    first[:, 5] /= 256
    second[:, 5] /= 256
    e, of_all = balance([first, second]), balance([np.concatenate([first, second])])
    assert e is not None and of_all is not None and np.array_equal(e, of_all)


def test_powers_have_an_end_and_columns_of_zeros_have_none() -> None:
    W = matrix()
    W[:, 0] *= 1e-9
    W[:, 1] *= 1e9
    W[:, 2] = 0
    e = balance([W])
    assert e is not None and e[0] == LARGEST and e[1] == -LARGEST and e[2] == 0
    assert balance([np.zeros((4, 8), np.float32)]) is None

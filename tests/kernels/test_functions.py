import numpy as np
import pytest

from rwkvquant.kernels.functions import head_norm, layer_norm, sigmoid, silu, squared_relu, unit_length


def test_sigmoid_is_the_formula_and_never_overflows():
    x = np.array([-1e30, -1000, -90, -20, -1, 0, 1, 20, 1000, 1e30], np.float32)
    with np.errstate(all="raise", under="ignore"):
        y, z = sigmoid(x), silu(x)
    assert y.dtype == np.float32
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-38)
    np.testing.assert_allclose(z, x * expected, rtol=1e-6, atol=1e-30)


def test_layer_norm_of_a_known_row():
    x = np.array([[1, 1, 3, 3]], np.float32)  # mean 2, variance 1
    weight, bias = np.array([1, 2, 3, 4], np.float32), np.full(4, 10, np.float32)
    np.testing.assert_allclose(layer_norm(x, weight, bias), [[9, 8, 13, 14]], rtol=1e-5)


def test_head_norm_normalises_each_head_separately_with_its_own_eps():
    x = np.array([[[1, 3], [100, 300], [0.04, 0.08]]], np.float32)  # variances 1, 10000 and 4e-4
    small = 0.02 / np.sqrt(4e-4 + 64e-5)
    expected = [[-1 / np.sqrt(1.00064), 1 / np.sqrt(1.00064), -1, 1, -small, small]]
    np.testing.assert_allclose(head_norm(x, np.ones(6, np.float32), np.zeros(6, np.float32)), expected, rtol=1e-5)


def test_unit_length_keeps_zero():
    np.testing.assert_allclose(unit_length(np.array([[3, 4], [0, 0]], np.float32)), [[0.6, 0.8], [0, 0]])


@pytest.mark.parametrize(("x", "y"), [(-2, 0), (0, 0), (3, 9)])
def test_squared_relu(x, y):
    assert squared_relu(np.float32(x)) == y

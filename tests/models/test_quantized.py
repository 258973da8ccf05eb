import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig
from rwkvquant.models import QuantizedMatrix, linear
from rwkvquant.models.quantized import rows
from rwkvquant.transforms import transform_named
from tests.formats.examples import codebook, pairs, uniform, vector_codebook

SHAPES = [(1, 1), (5, 33), (16, 64), (17, 100), (3, 130)]
GRIDS = [
    GridConfig(bits, group, symmetric, scale_bits)
    for bits in (1, 3, 8)
    for group in (32, 50, 64)
    for symmetric in (False, True)
    for scale_bits in (8, 16)
]
RNG = np.random.default_rng(0)
CODEBOOKS = [
    *(codebook(RNG, shape, bits, group_rows, rank) for shape in SHAPES for bits, group_rows, rank in ((3, 2, 0), (2, 16, 2), (4, 4, 0))),
    *(vector_codebook(RNG, shape) for shape in SHAPES),
]
PAIRS = [pairs(RNG, shape, bits, group_rows) for shape in SHAPES for bits, group_rows in ((4, 16), (7, 16), (8, 48))]
UNIFORM = [uniform(RNG, shape, grid) for shape in SHAPES for grid in GRIDS]
TENSORS = UNIFORM + CODEBOOKS + PAIRS


def test_decodes_to_the_last_bit_as_numpy_does():
    for tensor in TENSORS:
        assert np.array_equal(QuantizedMatrix(tensor).decode().numpy(), tensor.decode())


def test_chosen_rows_are_those_of_the_whole():
    for tensor in TENSORS:
        chosen = torch.tensor([tensor.shape[0] - 1, 0, 0])
        assert np.array_equal(QuantizedMatrix(tensor).decode(chosen).numpy(), tensor.decode()[chosen])


@pytest.mark.parametrize("name", ["hadamard", "column-power-hadamard"])
def test_the_transform_of_an_input_is_undone_in_what_is_decoded(name):
    tensor = UNIFORM[-1]
    applied = transform_named(name).make(tensor.shape[1], 1)
    quantised, wanted = QuantizedMatrix(tensor, transform=applied), applied.undone(tensor.decode())
    assert np.array_equal(quantised.decode().numpy(), wanted) and not np.array_equal(wanted, tensor.decode())
    x = np.random.default_rng(1).standard_normal((4, tensor.shape[1])).astype(np.float32)
    products = linear(torch.from_numpy(x), quantised).numpy()
    np.testing.assert_allclose(products, applied.activations(x) @ tensor.decode().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tensor", [CODEBOOKS[-1], PAIRS[-1], UNIFORM[-1]], ids=["codebook", "pairs", "uniform"])
def test_dense_and_quantised_weights_have_the_same_products(tensor):
    dense, quantised = torch.from_numpy(tensor.decode()), QuantizedMatrix(tensor)
    x = torch.randn(2, 7, tensor.shape[1])
    assert torch.equal(linear(x, quantised), linear(x, dense))
    tokens = torch.tensor([[0, 2], [1, 1]])
    assert torch.equal(rows(quantised, tokens), rows(dense, tokens))
    assert rows(dense, tokens).shape == (2, 2, tensor.shape[1])

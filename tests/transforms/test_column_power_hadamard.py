"""A scale of some columns, then a rotation: both parts in this order, each as it is alone, and damaged arrays are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.codecs import DenseTensor
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.writer import ContainerWriter
from rwkvquant.kernels.hadamard import signs_of
from rwkvquant.transforms import Applied
from rwkvquant.transforms.column_power import LARGEST
from rwkvquant.transforms.column_power_hadamard import COLUMN_POWER_HADAMARD
from rwkvquant.transforms.hadamard import HADAMARD, MAX_SEED
from tests.formats import examples

NAME, WIDTH = "blocks.0.att.value.weight", examples.DIMS.width


def exponents(width: int) -> np.ndarray:
    e = np.zeros(width, np.int32)
    e[[2, width - 1]] = 9, -4
    return e


def matrix(width: int, block: int, signs: np.ndarray) -> np.ndarray:
    """T, built from its definition: Sylvester's matrix, the signs, and the scale."""
    H = np.ones((1, 1))
    while len(H) < block:
        H = np.block([[H, H], [H, -H]])
    return np.kron(np.eye(width // block), H) @ np.diag(signs) @ np.diag(2.0 ** -exponents(width)) / np.sqrt(block)


@pytest.mark.parametrize(("width", "block"), [(12, 4), (64, 64), (96, 32), (7, 1)])
def test_it_is_the_product_with_its_matrix(width: int, block: int) -> None:
    random = np.random.default_rng(width)
    W, X = random.standard_normal((5, width)), random.standard_normal((40, width))
    applied = COLUMN_POWER_HADAMARD.of(exponents(width), 3)
    T = matrix(width, block, signs_of(applied.arrays["signs"], width))
    np.testing.assert_allclose(applied.activations(X), X @ T.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(applied.weights(W), W @ np.linalg.inv(T), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(applied.hessian(X.T @ X), T @ (X.T @ X) @ T.T, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(applied.activations(X) @ applied.weights(W).T, X @ W.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(applied.undone(applied.weights(W)), W, rtol=1e-9, atol=1e-9)


def test_its_values_arrays_and_cost_are_those_of_both_parts() -> None:
    applied = COLUMN_POWER_HADAMARD.of(exponents(12), 3)
    assert applied.values == {"count": 2, "seed": 3} and applied.arrays["pairs"].tolist() == [2, 9, 11, -4]
    assert np.array_equal(applied.arrays["signs"], HADAMARD.make(12, 3).arrays["signs"])
    assert COLUMN_POWER_HADAMARD.sizes(applied.values, 12) == {"pairs": (np.int32, 4), "signs": (np.uint8, 2)}
    assert COLUMN_POWER_HADAMARD.flops(12, applied.values) == 2 + HADAMARD.flops(12, {"seed": 3})
    native = applied.native(12)
    assert native is not None and np.array_equal(native["divisors"], (2.0 ** exponents(12)).astype(np.float32))
    assert np.array_equal(native["signs"], applied.arrays["signs"])
    W = np.random.default_rng(0).standard_normal((5, 12))
    assert np.array_equal(COLUMN_POWER_HADAMARD.make(12, 3).weights(W), HADAMARD.make(12, 3).weights(W))


@pytest.mark.parametrize("pairs", [[2, 9, 12, -4], [11, 9, 2, -4], [2, LARGEST + 1, 11, -4]])
def test_a_file_with_damaged_pairs_is_refused_and_does_no_harm(tmp_path: Path, pairs: list[int]) -> None:
    W = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    good = COLUMN_POWER_HADAMARD.of(exponents(WIDTH), 1)
    damaged = replace(good, arrays={**good.arrays, "pairs": np.array([WIDTH if each == 12 else each for each in pairs], np.int32)})

    def write(applied: Applied) -> Path:
        with ContainerWriter(tmp_path / "m.safetensors") as out:
            examples.add_model(out)
            out.add(NAME, DenseTensor(good.weights(W)), role="projection", method="dense", input_transform=applied)
            examples.finish(out)
        return tmp_path / "m.safetensors"

    whole = open_packed(write(good))
    np.testing.assert_allclose(whole.decode(NAME), W, atol=1e-3)  # W is not 512 times out of line, so float32 loses some of it
    with pytest.raises(FormatError, match=f"input_transform of {NAME}: .*of column-power must"):
        write(damaged)  # the writer verifies what it wrote
    assert np.isfinite(damaged.undone(W)).all() and np.isfinite(damaged.activations(W)).all()


@pytest.mark.parametrize(
    ("values", "rule"), [({"count": 13, "seed": 0}, "count of column-power"), ({"count": 1, "seed": -1}, "seed of hadamard")]
)
def test_values_that_break_the_rule_of_a_part_are_refused(values: dict[str, int], rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        COLUMN_POWER_HADAMARD.check(values, 12)
    COLUMN_POWER_HADAMARD.check({"count": 12, "seed": MAX_SEED}, 12)

"""The randomised Hadamard transform is the product with a matrix that this file builds, and a file that has it gives the same logits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant.codecs import DenseTensor
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import ContainerWriter, open_packed
from rwkvquant.kernels.hadamard import block
from rwkvquant.runtime.inspection import inspect
from rwkvquant.transforms import Applied, transform_named
from tests.formats import examples
from tests.formats.examples import DIMS

WIDTHS = (1, 2, 8, 12, 32, 40, 96)
HADAMARD = transform_named("hadamard")


def matrix(applied: Applied, width: int) -> NDArray[np.float64]:
    """T by its definition: Sylvester's matrices, H_2b = [[H, H], [H, -H]], and signs from the bits of each byte, lowest first."""
    size = math.gcd(width, 1 << 20)
    sylvester = np.ones((1, 1))
    while len(sylvester) < size:
        sylvester = np.block([[sylvester, sylvester], [sylvester, -sylvester]])
    blocks = np.kron(np.eye(width // size), sylvester)
    signs = [1 - 2 * (int(applied.arrays["signs"][i // 8]) >> i % 8 & 1) for i in range(width)]
    return blocks @ np.diag(signs) / math.sqrt(size)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_the_product_with_its_matrix(width: int) -> None:
    applied, rng = HADAMARD.make(width, 3), np.random.default_rng(width)
    T, x = matrix(applied, width), rng.standard_normal((5, width))
    np.testing.assert_allclose(T @ T.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(applied.activations(x), x @ T.T, atol=1e-12)
    np.testing.assert_allclose(applied.weights(x), x @ np.linalg.inv(T), atol=1e-10)
    np.testing.assert_allclose(applied.undone(x), x @ T, atol=1e-12)
    H = x.T @ x
    np.testing.assert_allclose(applied.hessian(H), T @ H @ T.T, atol=1e-10)
    assert block(width) == math.gcd(width, 1 << 20)


def test_weights_come_back_and_products_stay() -> None:
    rng = np.random.default_rng(0)
    W, x = (rng.standard_normal((4, 96)).astype(np.float32) for _ in range(2))
    applied = HADAMARD.make(96, 0)
    changed = applied.weights(W)
    assert changed.dtype == applied.activations(x).dtype == np.float32
    np.testing.assert_allclose(applied.undone(changed), W, atol=1e-6)
    np.testing.assert_allclose(applied.activations(x) @ changed.T, x @ W.T, atol=1e-5)


def test_a_single_large_column_is_spread_over_its_block() -> None:
    W = np.zeros((1, 64), np.float32)
    W[0, 17] = 8.0
    assert np.array_equal(np.abs(HADAMARD.make(64, 5).weights(W)), np.ones((1, 64), np.float32))


def test_bits_are_those_of_the_additions_in_order() -> None:
    """Plain loops in float32: another order of the additions gives other bits."""
    x, applied = np.random.default_rng(4).standard_normal(16).astype(np.float32), HADAMARD.make(16, 9)
    bits = np.unpackbits(applied.arrays["signs"], bitorder="little")
    y = [np.float32(-v) if bit else np.float32(v) for v, bit in zip(x, bits, strict=True)]
    for apart in (1, 2, 4, 8):
        for i in range(16):
            if not i & apart:
                y[i], y[i + apart] = y[i] + y[i + apart], y[i] - y[i + apart]
    want = np.array([v * np.float32(0.25) for v in y], np.float32)
    assert np.array_equal(applied.activations(x[None])[0], want)


def test_seeds_and_widths_have_their_own_signs() -> None:
    drawn = {(width, seed): HADAMARD.make(width, seed).arrays["signs"].tobytes() for width in (256, 512) for seed in (0, 1)}
    assert len(set(drawn.values())) == 4
    assert HADAMARD.make(256, 0).arrays["signs"].tobytes() == drawn[256, 0]


def test_operations_are_counted() -> None:
    assert HADAMARD.flops(256, {"seed": 0}) == 256 * 8 + 256
    assert HADAMARD.flops(896, {"seed": 0}) == 896 * 7 + 896  # seven blocks of 128


def write(path: Path, W: NDArray[np.float32], seed: int) -> Path:
    applied = replace(HADAMARD.make(DIMS.width, 0), values={"seed": seed})
    with ContainerWriter(path) as out:
        examples.add_model(out)
        for name in ("att.value.weight", "att.output.weight"):
            out.add(f"blocks.1.{name}", DenseTensor(applied.weights(W)), role="projection", method="dense", input_transform=applied)
        examples.finish(out)
    return path


def test_a_file_keeps_it_and_inspect_counts_it(tmp_path: Path) -> None:
    W = np.random.default_rng(1).standard_normal((DIMS.width, DIMS.width)).astype(np.float32)
    path = write(tmp_path / "m.safetensors", W, 7)
    packed = open_packed(path)
    packed.verify()
    np.testing.assert_allclose(packed.decode("blocks.1.att.value.weight"), W, atol=1e-6)
    flops = HADAMARD.flops(DIMS.width, {"seed": 7})
    assert inspect(path).to_json()["transforms"] == [
        {"name": "hadamard", "matrices": 2, "undone": 0, "flops": 2 * flops}  # their inputs differ
    ]
    assert packed.decoded_layouts() == examples.WITHOUT_PRODUCT


def test_a_seed_that_json_would_lose_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="seed of hadamard must be 0 to"):
        write(tmp_path / "m.safetensors", np.eye(DIMS.width, dtype=np.float32), -1)

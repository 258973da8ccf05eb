"""Engines apply a Hadamard transform, a scale of channels, or both to inputs of products: the model is that with the transform undone, and
bits stay the same for any number of threads, any batch, and any division of a text into steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.errors import FormatError
from rwkvquant.runtime.engines.native import NativeEngine, held_matrix
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.weights import Weights
from rwkvquant.transforms import NONE, Applied, transform_named
from rwkvquant.transforms.column_power import COLUMN_POWER
from rwkvquant.transforms.column_power_hadamard import COLUMN_POWER_HADAMARD
from rwkvquant.transforms.column_scale import COLUMN_SCALE
from tests.runtime.test_engine import SIZES, assert_equal, int8_definition, random_state, random_weights

HADAMARD = transform_named("hadamard")
SEQUENCES = [[1], [2, 3, 4, 5, 6, 7, 8], [9, 10]]


def rotated(width: int, seed: int) -> Applied:
    return HADAMARD.make(width, seed)


def scaled(width: int, seed: int) -> Applied:
    return COLUMN_SCALE.of(np.random.default_rng(seed).lognormal(0, 0.3, width).astype(np.float16))


def exponents(width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.where(random.random(width) < 0.1, random.integers(-2, 3, width), 0)


def powers(width: int, seed: int) -> Applied:
    return COLUMN_POWER.of(exponents(width, seed))


def both(width: int, seed: int) -> Applied:
    return COLUMN_POWER_HADAMARD.of(exponents(width, seed), seed)


def mixed(width: int, seed: int) -> Applied:
    return rotated(width, seed) if seed else both(width, seed)


def transformed(weights: Weights, make: Callable[[int, int], Applied]) -> Weights:
    """Other models: the stored matrices are said to be for transformed inputs. Some have none, and some another seed."""
    seeds = cycle([0, 0, None, 1, 0])
    drawn = {name: next(seeds) for name in weights.matrices}
    return replace(
        weights, transforms={name: make(weights.matrices[name].shape[1], seed) for name, seed in drawn.items() if seed is not None}
    )


@pytest.fixture(params=[rotated, scaled, powers, both, mixed], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[[int, int], Applied]:
    function: Callable[[int, int], Applied] = request.param
    return function


@pytest.fixture(scope="module", params=list(SIZES))
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return random_weights(tmp_path_factory.mktemp("stored"), request.param, seed=1, columns=False)


@pytest.fixture
def weights(stored: Weights, make: Callable[[int, int], Applied]) -> Weights:
    return transformed(stored, make)


def test_logits_are_those_of_the_model_with_the_transform_undone(weights: Weights) -> None:
    plain = weights.plain()
    assert weights.transforms and not plain.transforms and plain.matrices.keys() == weights.matrices.keys()
    state = random_state(weights.dims, len(SEQUENCES))
    wanted, after = ReferenceEngine(weights).read(SEQUENCES, state, "all")
    got, got_after = NativeEngine(weights, 2, "float32").read(SEQUENCES, state, "all")
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3 * np.abs(other).max())
    for one, other in zip(got_after.arrays, after.arrays, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3 * max(1.0, float(np.abs(other).max())))
    without, _ = ReferenceEngine(replace(weights, transforms={})).read(SEQUENCES, state, "all")
    assert np.abs(without[1] - wanted[1]).max() > 0.05 * np.abs(wanted[1]).max()  # the transform matters


@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_bits_are_the_same_for_any_threads_batch_and_steps(weights: Weights, activations: str) -> None:
    state = random_state(weights.dims, len(SEQUENCES))
    wanted, after = NativeEngine(weights, 1, activations).read(SEQUENCES, state, "all")
    for threads in (2, 3):
        got, got_after = NativeEngine(weights, threads, activations).read(SEQUENCES, state, "all")
        np.testing.assert_array_equal(np.concatenate(got), np.concatenate(wanted))
        assert_equal(after, got_after)
    engine, part = NativeEngine(weights, 2, activations), state.select([1])
    for at, token in enumerate(SEQUENCES[1]):
        (row,), part = engine.read([[token]], part, "last")
        np.testing.assert_array_equal(row[0], wanted[1][at])
    assert_equal(after.select([1]), part)


def test_int8_rounds_the_transformed_input(weights: Weights) -> None:
    """Products with T x in int8, as the definition of a product has it, are nearer than those with x in int8 and T undone, or as near."""
    state = random_state(weights.dims, 1)
    (exact,), _ = ReferenceEngine(weights).read(SEQUENCES[1:2], state, "all")
    (got,), _ = NativeEngine(weights, 1).read(SEQUENCES[1:2], state, "all")
    (undone,), _ = int8_definition(weights.plain()).read(SEQUENCES[1:2], state, "all")
    spread = np.abs(exact).max()
    assert np.abs(got - exact).max() < max(0.1 * spread, 3 * np.abs(undone - exact).max())


def test_a_matrix_stored_by_columns_takes_no_transform(tmp_path: Path) -> None:
    weights = random_weights(tmp_path, next(iter(SIZES)))
    name = next(name for name, packed in weights.matrices.items() if packed.codec.nonnegative_input)
    packed = weights.matrices[name]
    applied = HADAMARD.make(packed.shape[1], 0)
    with pytest.raises(ValueError, match=rf"stored by columns has no transform of its input.*\({name}\)"):
        held_matrix(_native, name, packed, applied=applied)
    with pytest.raises(FormatError, match="stored by columns has no transform"):
        NativeEngine(replace(weights, transforms={name: applied}), 1)


def test_signs_must_have_a_bit_for_each_column(tmp_path: Path) -> None:
    weights = random_weights(tmp_path, next(iter(SIZES)), columns=False)
    name, packed = next(iter(weights.matrices.items()))
    short = Applied("hadamard", {"seed": 0}, {"signs": np.zeros(packed.shape[1] // 8 - 1, np.uint8)})
    with pytest.raises(ValueError, match=rf"signs must hold.*\({name}\)"):
        held_matrix(_native, name, packed, applied=short)
    assert held_matrix(_native, name, packed, applied=NONE) is not None


def test_there_must_be_a_divisor_for_each_column(tmp_path: Path) -> None:
    weights = random_weights(tmp_path, next(iter(SIZES)), columns=False)
    name, packed = next(iter(weights.matrices.items()))
    short = Applied("column-scale", {}, {"scale": np.ones(packed.shape[1] - 1, np.float16)})
    with pytest.raises(ValueError, match=rf"divisors must hold.*\({name}\)"):
        held_matrix(_native, name, packed, applied=short)


def test_inputs_are_shared_only_if_both_parts_of_their_transforms_are_equal(tmp_path: Path) -> None:
    """The value and the first factor of the value's gate read one vector."""
    weights = random_weights(tmp_path, "rwkv7 heads of 16", columns=False)
    value, gate = "blocks.1.att.value.weight", "blocks.1.att.v1"
    width = weights.dims.width
    made = [rotated(width, 0), both(width, 0), powers(width, 0), COLUMN_POWER_HADAMARD.of(exponents(width, 1), 0), both(width, 1)]
    state = random_state(weights.dims, 1)
    for one, other in product(made, made):
        changed = replace(weights, transforms={value: one, gate: other})
        (got,), _ = NativeEngine(changed, 1, "float32").read(SEQUENCES[1:2], state, "all")
        (wanted,), _ = ReferenceEngine(changed.plain()).read(SEQUENCES[1:2], state, "all")
        np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())

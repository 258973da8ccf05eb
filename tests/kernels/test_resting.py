"""A state at rest keeps the bounds of its definition, for every bits and head size, and the same bytes come out each time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rwkvquant.kernels import resting
from rwkvquant.kernels.bfloat import widen_bfloat
from rwkvquant.kernels.state import StateArray

WKV = StateArray("wkv", ("L", "B", "H", "N", "N"))
SHIFT = StateArray("att_shift", ("L", "B", "C"))
SIZES = (1, 2, 3, 8, 12, 64)
ROUNDING = 1e-5  # of a few float32 operations, relative to the largest value of a head


def matrices(size: int, seed: int = 0) -> np.ndarray:
    """Heads as states are: columns of very different sizes, and a large part of rank one."""
    random = np.random.default_rng(seed)
    S = random.standard_normal((2, 1, 3, size, size)) * np.exp(2 * random.standard_normal(size))
    S += 5 * random.standard_normal((2, 1, 3, size, 1)) * random.standard_normal(size)
    return S.astype(np.float32)


def hadamard(size: int) -> np.ndarray:
    """Sylvester's matrix, by its definition: H_2n = [[H_n, H_n], [H_n, -H_n]], divided by the root of its size."""
    H = np.ones((1, 1))
    while len(H) < size:
        H = np.block([[H, H], [H, -H]])
    return H / np.sqrt(size)


@pytest.mark.parametrize("size", SIZES)
def test_the_rotation_is_sylvesters_in_blocks_and_undoes_itself(size: int) -> None:
    block = next(power for power in (64, 32, 16, 8, 4, 2, 1) if size % power == 0)
    R = np.kron(np.eye(size // block), hadamard(block))
    S = matrices(size)
    largest = np.abs(S).max()
    assert np.allclose(resting.rotated(S), S @ R, rtol=0, atol=ROUNDING * largest)
    assert np.allclose(resting.rotated(resting.rotated(S)), S, rtol=0, atol=ROUNDING * largest)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", resting.BITS)
def test_each_rotated_value_is_within_half_a_step(size: int, bits: int) -> None:
    S = matrices(size)
    parts = resting.pack_matrices(S, bits)
    again = resting.unpack_matrices(parts, bits)
    half = widen_bfloat(parts["scales"])[..., None] / 2
    assert (np.abs(resting.rotated(again - S)) <= half + ROUNDING * np.abs(S).max((-1, -2), keepdims=True)).all()


@pytest.mark.parametrize("bits", resting.BITS)
def test_scales_are_of_the_rest_and_no_larger_than_bfloat16_needs(bits: int) -> None:
    S = matrices(64)
    parts = resting.pack_matrices(S, bits)
    rest = resting.rotated(S - resting.outer(parts["left"], parts["right"], parts["weight"]))
    exact = np.abs(rest).max(-1) / ((1 << (bits - 1)) - 1)
    scales = widen_bfloat(parts["scales"])
    assert (scales >= exact).all() and (scales <= exact * (1 + 2**-7)).all()


def test_the_rank_one_part_is_the_largest_singular_pair_but_for_rounding() -> None:
    S = matrices(64)
    p, q, c = resting.rank_one(S)
    left = np.linalg.norm(S - resting.outer(p, q, c), axis=(-1, -2))
    singular = np.linalg.svd(S.astype(np.float64), compute_uv=False)
    best = np.sqrt((singular[..., 1:] ** 2).sum(-1))
    assert (left <= best + 0.01 * singular[..., 0]).all()  # p and q are in steps of 1/127 of their largest value


@pytest.mark.parametrize("bits", resting.BITS)
def test_a_matrix_of_rank_one_and_one_of_zeros_need_no_rest(bits: int) -> None:
    p, q = np.arange(-127, 129, 4, dtype=np.float32)[:64], np.linspace(-127, 127, 64).round().astype(np.float32)
    S = np.stack([np.outer(p, q), np.zeros((64, 64))]).astype(np.float32)[:, None, None]
    again = resting.unpack_matrices(resting.pack_matrices(S, bits), bits)
    assert np.allclose(again[0], S[0], rtol=0, atol=1e-4 * np.abs(S).max()) and not again[1].any()


@pytest.mark.parametrize("width", [1, 63, 64, 65, 256])
def test_each_value_of_a_vector_is_within_half_a_step_of_its_group(width: int) -> None:
    x = (np.random.default_rng(0).standard_normal((3, 1, width)) * np.exp(np.arange(width) / 30)).astype(np.float32)
    parts = resting.pack_vectors(x)
    steps = np.repeat(widen_bfloat(parts["scales"]), resting.GROUP, axis=-1)[..., :width]
    assert (np.abs(resting.unpack_vectors(parts) - x) <= steps / 2 * (1 + ROUNDING)).all()
    assert (steps <= np.abs(x).max() / 127 * (1 + 2**-7)).all()


@pytest.mark.parametrize("size", SIZES)
def test_every_code_of_four_bits_comes_back_from_a_byte(size: int) -> None:
    Z = np.random.default_rng(0).integers(-7, 8, (4, size)).astype(np.int8)
    packed = resting.two_in_a_byte(Z)
    assert packed.shape == (4, (size + 1) // 2) and np.array_equal(resting.one_in_a_byte(packed, size), Z)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", resting.BITS)
def test_the_parts_are_those_that_files_must_have(size: int, bits: int) -> None:
    vector = np.ones((2, 1, 3 * size), np.float32)
    for array, values in ((WKV, matrices(size)), (SHIFT, vector)):
        parts = resting.pack_array(array, values, bits)
        assert {name: (part.dtype.type, part.shape) for name, part in parts.items()} == resting.parts_of(array, values.shape, bits)
        assert resting.shape_from(array, parts) == values.shape and tuple(parts) == resting.part_names(array)
        assert resting.in_range(array, parts, bits)


def test_a_head_of_64_takes_4356_and_2308_bytes() -> None:
    """8.5 and 4.5 bits a value, all side information counted."""
    for bits, wanted in ((8, 4356), (4, 2308)):
        assert sum(part.nbytes for part in resting.pack_array(WKV, matrices(64)[:1, :, :1], bits).values()) == wanted


@pytest.mark.parametrize("bits", resting.BITS)
def test_the_bytes_are_the_same_in_any_company_and_on_any_thread(bits: int) -> None:
    S = matrices(64)
    wanted = {name: part.tobytes() for name, part in resting.pack_array(WKV, S, bits).items()}
    with ThreadPoolExecutor(4) as pool:
        for parts in pool.map(lambda _: resting.pack_array(WKV, S.copy(), bits), range(8)):
            assert {name: part.tobytes() for name, part in parts.items()} == wanted
    alone = resting.pack_array(WKV, S[1:, :, 2:], bits)
    assert all(np.array_equal(part, resting.pack_array(WKV, S, bits)[name][1:, :, 2:]) for name, part in alone.items())

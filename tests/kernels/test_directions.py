"""Codebooks of directions are those of their definitions, and have the same bytes on every machine."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from rwkvquant.kernels import directions
from rwkvquant.kernels.directions import CHECKSUMS, candidates, checksum, crc32, farthest, units


def test_the_candidates_are_whole_shells_of_the_lattice_one_of_each_direction() -> None:
    """E8 has 240, 2160, 6720 and 17520 points of norm 2, 4, 6 and 8; 240 of the last are twice a point of norm 2."""
    points = candidates(20000)
    norms = (points * points).sum(1) // 4
    assert {int(norm): int((norms == norm).sum()) for norm in np.unique(norms)} == {2: 240, 4: 2160, 6: 6720, 8: 17280}
    assert [len(candidates(1 << bits)) for bits in (12, 13, 14)] == [9120, 9120, 26400]
    lattice = {point for point in itertools.product((-2, -1, 0, 1, 2), repeat=8) if sum(v * v for v in point) == 8}
    lattice = {point for point in lattice if len({v % 2 for v in point}) == 1 and sum(point) % 4 == 0}
    assert {tuple(point) for point in points[:240].tolist()} == lattice
    assert points[:240].tolist() == sorted(map(list, lattice))


def test_the_next_point_is_the_one_with_the_smallest_largest_cosine() -> None:
    """The definition, with exact fractions: c |c| grows with the cosine c."""
    points = candidates(240)[:120]
    chosen = [0]

    def cosine(one: int, other: int) -> Fraction:
        dot = int(points[one] @ points[other])
        return Fraction(abs(dot) * dot, int(points[one] @ points[one]) * int(points[other] @ points[other]))

    while len(chosen) < 60:
        largest = {point: max(cosine(point, other) for other in chosen) for point in range(len(points)) if point not in chosen}
        chosen.append(min(largest, key=lambda point: (largest[point], point)))
    assert farthest(points, 60).tolist() == chosen


def test_a_whole_codebook_is_that_of_one_point_after_the_other() -> None:
    points = candidates(1 << 12)
    P, norms = points.astype(float), (points * points).sum(1).astype(float)
    nearest, at, chosen = np.full(len(P), -np.inf), 0, []
    for _ in range(1 << 12):
        chosen.append(at)
        dots = P @ P[at]
        nearest = np.maximum(nearest, np.round(np.abs(dots) * dots / (norms * norms[at]), 9))
        nearest[at] = np.inf
        at = int(nearest.argmin())
    assert np.array_equal(directions.directions("e8", 12), units(points[chosen]))


def test_units_are_rounded_exactly() -> None:
    points = np.random.default_rng(0).integers(-130, 131, (500, 8)) + np.eye(8, dtype=np.int64)[0] * 131
    want = np.round(127 * points / np.sqrt((points * points).sum(1, keepdims=True)))
    assert np.array_equal(units(points), want)
    assert units(np.eye(8, dtype=np.int64) * -9).tolist() == (-127 * np.eye(8)).tolist()


@pytest.mark.parametrize(("kind", "bits"), [(kind, bits) for kind in CHECKSUMS for bits in CHECKSUMS[kind] if bits < 16])
def test_codebooks_have_the_known_bytes_and_no_direction_twice(kind: str, bits: int) -> None:
    codebook = directions.directions(kind, bits)
    assert codebook.shape == (1 << bits, 8) and codebook.dtype == np.int8 and not codebook.flags.writeable
    assert checksum(codebook) == crc32(kind, bits)
    assert len(np.unique(codebook, axis=0)) == 1 << bits
    assert np.abs(np.linalg.norm(codebook.astype(float), axis=1) - 127).max() < 2


def test_e8_is_nearer_to_any_vector_than_random_directions() -> None:
    x = np.random.default_rng(1).standard_normal((200, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    lost = {}
    for kind in ("e8", "random"):
        codebook = directions.directions(kind, 12).astype(float)
        lost[kind] = 1 - np.square((x @ (codebook / np.linalg.norm(codebook, axis=1, keepdims=True)).T).max(1)).mean()
    assert lost["e8"] < 0.97 * lost["random"] < 0.15

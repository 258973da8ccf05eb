"""Algorithm 1 gives C F of the tensors uniform grids (SQ), with thresholds that Eq. (18) uses as they are."""

from __future__ import annotations

import math
import random

import pytest

from rwkvquant.selection.algorithm1 import FIXED_THRESHOLDS, Thresholds, algorithm1, choose, percentile_thresholds


def distinct(count: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    rng = random.Random(seed)
    return {f"t{i}": (rng.random(), 100 * rng.random()) for i in range(count)}


def on_grids(choices: dict[str, str]) -> set[str]:
    return {name for name, choice in choices.items() if choice == "uniform"}


def test_by_hand() -> None:
    """M = 10, C F M = 1: of the five least P_c (a..e) the one of least P_f; j has less, but a large P_c."""
    coarse = dict(zip("abcdefghij", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], strict=True))
    fine = dict(zip("abcdefghij", [50, 40, 7, 30, 20, 1, 2, 3, 4, 0], strict=True))
    choices, thresholds = algorithm1({name: (coarse[name], fine[name]) for name in coarse})
    assert thresholds == Thresholds(0.6, 20)
    assert on_grids(choices) == {"c"}
    assert set(choices.values()) == {"uniform", "codebook"}


@pytest.mark.parametrize("count", [10, 30, 166, 384, 1000])
def test_the_share_of_grids_is_coarse_share_times_fine_share(count: int) -> None:
    choices, _ = algorithm1(distinct(count))
    assert len(choices) == count
    assert len(on_grids(choices)) == count // 10


@pytest.mark.parametrize(
    "coarse_share, fine_share, expected", [(0.29, 1, 29), (1, 0.29, 29), (1, 1, 100), (0, 1, 0), (1, 0, 0), (0.5, 0.5, 25)]
)
def test_other_shares_count_exactly(coarse_share: float, fine_share: float, expected: int) -> None:
    choices, thresholds = algorithm1(distinct(100), coarse_share, fine_share)
    assert len(on_grids(choices)) == expected
    assert math.isfinite(thresholds.coarse) and math.isfinite(thresholds.fine)  # plan.json can hold them


def test_the_chosen_are_the_least_fine_of_the_least_coarse() -> None:
    result = distinct(200, seed=3)
    choices, _ = algorithm1(result)
    coarsest = sorted(result, key=lambda name: result[name][0])[:100]
    assert on_grids(choices) == set(sorted(coarsest, key=lambda name: result[name][1])[:20])


@pytest.mark.parametrize("count", range(10))
def test_fewer_than_ten_tensors_all_get_codebooks(count: int) -> None:
    choices, _ = algorithm1(distinct(count))
    assert len(choices) == count and not on_grids(choices)


def test_ties_at_a_threshold_are_not_below_it() -> None:
    assert not on_grids(algorithm1({f"t{i}": (0.5, 3.0) for i in range(50)})[0])
    tied = {f"t{i}": (0.1 if i < 3 else 0.5, float(i)) for i in range(100)}  # tau_c should have 50 below it, and has 3
    choices, thresholds = algorithm1(tied)
    assert thresholds.coarse == 0.5
    assert on_grids(choices) == {"t0", "t1", "t2"}  # F C M = 10 of three: all of them


def test_a_choice_does_not_depend_on_order_or_names() -> None:
    result = distinct(40)
    backwards = dict(reversed(result.items()))
    assert algorithm1(backwards)[1] == algorithm1(result)[1]
    assert algorithm1(backwards)[0] == algorithm1(result)[0]


def test_fixed_thresholds_need_both_proxies_strictly_below() -> None:
    result = {"below": (1.53, 29.9), "at tau_c": (1.54, 1.0), "at tau_f": (1.0, 30.0), "above": (2.0, 50.0)}
    assert on_grids(choose(result, FIXED_THRESHOLDS["paper-rwkv7"])) == {"below"}
    assert on_grids(choose(result, FIXED_THRESHOLDS["readme"])) == {"below", "at tau_c", "at tau_f"}


def test_thresholds_alone_are_those_of_the_algorithm() -> None:
    result = distinct(77)
    assert choose(result, percentile_thresholds(result)) == algorithm1(result)[0]

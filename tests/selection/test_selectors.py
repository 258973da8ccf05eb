"""Each selector is its definition; a share of the weights is reached by the tensors of least score, whatever their names."""

from __future__ import annotations

import random

import pytest

from rwkvquant.selection.curves import between, neighbours
from rwkvquant.selection.selectors import SELECTORS, Evidence
from rwkvquant.selection.share import by_share

GAPS = ("variance", "cv", "range", "mad", "coarse", "fine")


def scores(selector: str, tensors: dict[str, Evidence], coarse_share: float = 0.5) -> dict[str, tuple[float, ...]]:
    return SELECTORS[selector].scores(tensors, coarse_share)


def test_table_6_and_the_four_losses_are_there() -> None:
    names = ["variance", "cv", "range", "mad", "entropy", "coarse", "fine", "coarse+fine", "mse", "hessian", "nats", "kl"]
    assert list(SELECTORS) == names


@pytest.mark.parametrize("name", GAPS)
def test_statistics_of_gaps_are_taken_as_they_are(name: str) -> None:
    tensors = {"even": Evidence(9, {name: 0.25}), "uneven": Evidence(9, {name: 4.0})}
    assert scores(name, tensors) == {"even": (0.25,), "uneven": (4.0,)}


def test_more_entropy_is_more_even() -> None:
    found = scores("entropy", {"even": Evidence(9, {"entropy": 3.0}), "uneven": Evidence(9, {"entropy": 1.0})})
    assert found["even"] < found["uneven"]


def test_two_stages_take_the_least_fine_of_the_coarse_half_first() -> None:
    pairs = {"a": (0.1, 50), "b": (0.2, 7), "c": (0.3, 1), "d": (0.4, 0)}
    found = scores("coarse+fine", {name: Evidence(9, {"coarse": c, "fine": f}) for name, (c, f) in pairs.items()})
    assert sorted(found, key=found.__getitem__) == ["b", "a", "d", "c"]
    found = scores("coarse+fine", {name: Evidence(9, {"coarse": c, "fine": f}) for name, (c, f) in pairs.items()}, coarse_share=0.75)
    assert sorted(found, key=found.__getitem__) == ["c", "b", "a", "d"]


@pytest.mark.parametrize("measure", ["mse", "hessian"])
def test_shares_of_the_energy_are_compared_as_they_are(measure: str) -> None:
    tensors = {"small": Evidence(10, losses={measure: (0.5, 0.375)}), "large": Evidence(1000, losses={measure: (0.5, 0.25)})}
    assert scores(measure, tensors) == {"small": (0.125,), "large": (0.25,)}


@pytest.mark.parametrize("measure", ["nats", "kl"])
def test_losses_of_the_model_are_counted_for_each_weight(measure: str) -> None:
    """Of two weights in `small` each saves 1/8, of eight in `large` 1/16: `large` gets SQ first, though SQ costs it more in all."""
    tensors = {"small": Evidence(2, losses={measure: (0.75, 0.5)}), "large": Evidence(8, losses={measure: (1.0, 0.5)})}
    assert scores(measure, tensors) == {"small": (0.125,), "large": (0.0625,)}


def uniform(kinds: dict[str, str]) -> set[str]:
    return {name for name, kind in kinds.items() if kind == "uniform"}


def test_the_least_get_grids_until_the_share_is_reached() -> None:
    weights = {"a": 10, "b": 30, "c": 20, "d": 40}
    ordered = {"a": (1.0,), "b": (2.0,), "c": (3.0,), "d": (4.0,)}
    found = {share: uniform(by_share(ordered, weights, share)) for share in (0, 0.04, 0.05, 0.1, 0.24, 0.25, 0.4, 0.6, 0.8, 1)}  # type: ignore[arg-type]
    expected = {0: "", 0.04: "", 0.05: "a", 0.1: "a", 0.24: "a", 0.25: "ab", 0.4: "ab", 0.6: "abc", 0.8: "abcd", 1: "abcd"}
    assert found == {share: set(names) for share, names in expected.items()}


def test_no_share_and_the_whole_are_the_pure_methods() -> None:
    draw = random.Random(0)
    ordered = {f"w{i}": (draw.random(),) for i in range(50)}
    weights = {name: draw.randint(1, 1000) for name in ordered}
    assert set(by_share(ordered, weights, 0.0).values()) == {"codebook"}
    assert set(by_share(ordered, weights, 1.0).values()) == {"uniform"}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_the_share_is_missed_by_less_than_half_a_tensor(share: float) -> None:
    draw = random.Random(1)
    ordered = {f"w{i}": (draw.random(), draw.random()) for i in range(60)}
    weights = {name: draw.randint(1, 1000) for name in ordered}
    found = uniform(by_share(ordered, weights, share))  # type: ignore[arg-type]
    assert abs(sum(weights[name] for name in found) - share * sum(weights.values())) <= 500
    assert max(ordered[name] for name in found) < min(ordered[name] for name in ordered if name not in found)


def test_equal_scores_get_the_same_kind_in_any_order() -> None:
    """60 of 100 weights have the least score: half of the weights is nearer to them than to none."""
    ordered, weights = {"a": (0.0,), "b": (0.0,), "c": (1.0,)}, {"a": 20, "b": 40, "c": 40}
    for names in ("abc", "bca", "cba", "bac"):
        found = by_share({name: ordered[name] for name in names}, {name: weights[name] for name in reversed(names)}, 0.5)
        assert uniform(found) == {"a", "b"}  # type: ignore[arg-type]
    equal = dict.fromkeys("abc", (0.5,))
    assert not uniform(by_share(equal, weights, 0.49)) and uniform(by_share(equal, weights, 0.5)) == set("abc")  # type: ignore[arg-type]


POINTS = [(30.0, 2.0), (10.0, 8.0), (25.0, 9.0), (20.0, 8.0)]  # of which the last two have no use


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (5, [(1, 1.0)]),
        (10, [(1, 1.0)]),
        (15, [(1, 0.75), (0, 0.25)]),
        (20, [(1, 0.5), (0, 0.5)]),
        (30, [(0, 1.0)]),
        (99, [(0, 1.0)]),
    ],
)
def test_neighbours_at_a_size(size: float, expected: list[tuple[int, float]]) -> None:
    assert neighbours(POINTS, size) == expected


def test_losses_between_candidates_are_exponential_where_they_can_be() -> None:
    assert between([(1, 0.5), (0, 0.5)], [2.0, 8.0]) == pytest.approx(4.0)
    assert between([(1, 0.5), (0, 0.5)], [-2.0, 8.0]) == 3.0
    assert between([(1, 1.0)], [2.0, 8.0]) == pytest.approx(8.0)

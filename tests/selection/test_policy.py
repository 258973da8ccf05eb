"""The result never exceeds the bit budget, with an error close to the least possible; overrides that match nothing are refused."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant.errors import ConfigError
from rwkvquant.selection.policy import fit_budget, override_bits

Candidates = dict[str, list[tuple[int, float, str]]]
NAMES = [
    f"blocks.{layer}.{part}" for layer in (0, 1, 10) for part in ("att.value.weight", "att.w1", "att.time_maa_w2.3", "ffn.value.weight")
]


@st.composite
def small_cases(draw: st.DrawFn) -> tuple[Candidates, dict[str, int]]:
    """Up to four matrices with up to five candidates: in any order, with ties, with dominated ones, and hulls of any shape."""
    candidate = st.tuples(st.integers(1, 40), st.integers(0, 100).map(float))
    result = {
        name: [(size, error, f"{name}{i}") for i, (size, error) in enumerate(draw(st.lists(candidate, min_size=1, max_size=5)))]
        for name in draw(st.sampled_from(["a", "ab", "abc", "abcd"]))
    }
    return result, {name: draw(st.integers(4, 40)) for name in result}


def cost(candidates: Candidates, grids: dict[str, str]) -> tuple[int, float]:
    by_grid = {grid: (size, error) for result in candidates.values() for size, error, grid in result}
    chosen = [by_grid[grid] for grid in grids.values()]
    return sum(size for size, _ in chosen), sum(error for _, error in chosen)


def brute_force(candidates: Candidates, budget: float) -> float | None:
    """The least total error of all choices within the budget; None where there is no such choice."""
    sums = [(sum(c[0] for c in choice), sum(c[1] for c in choice)) for choice in itertools.product(*candidates.values())]
    return min((error for size, error in sums if size <= budget), default=None)


def largest_step(candidates: Candidates) -> float:
    errors = [[error for _, error, _ in result] for result in candidates.values()]
    return max(max(result) - min(result) for result in errors)


@settings(max_examples=400, deadline=None)
@given(small_cases(), st.integers(1, 160))
def test_close_to_the_best_choice_and_never_above_the_budget(case: tuple[Candidates, dict[str, int]], budget: int) -> None:
    candidates, weights = case
    total = sum(weights.values())
    bits = 8 * (budget + 0.5) / total  # half a byte cannot be spent
    best = brute_force(candidates, budget)
    if best is None:
        with pytest.raises(ConfigError, match="smallest reachable"):
            fit_budget(candidates, weights, bits, explicit=True)
        return
    grids, reached = fit_budget(candidates, weights, bits, explicit=True)
    size, error = cost(candidates, grids)
    assert grids.keys() == candidates.keys()
    assert reached == 8 * size / total <= bits
    assert error <= best + largest_step(candidates)


@settings(max_examples=600, deadline=None)
@given(small_cases(), st.integers(0, 160), st.integers(1, 8))
def test_more_bits_never_hurt(case: tuple[Candidates, dict[str, int]], spare: int, more: int) -> None:
    candidates, weights = case
    total = sum(weights.values())
    budget = sum(min(result)[0] for result in candidates.values()) + spare
    less, enough = (fit_budget(candidates, weights, 8 * (b + 0.5) / total, explicit=True)[0] for b in (budget, budget + more))
    assert cost(candidates, enough)[1] <= cost(candidates, less)[1]


def test_with_room_for_all_each_takes_its_best() -> None:
    candidates = {"a": [(9, 0.0, "a3"), (1, 5.0, "a0"), (4, 4.0, "a1"), (5, 3.0, "a2")], "b": [(9, 0.0, "b1"), (9, 1.0, "b0")]}
    assert fit_budget(candidates, {"a": 8, "b": 8}, 99, explicit=True) == ({"a": "a3", "b": "b1"}, 9.0)


def test_a_step_that_does_not_fit_is_replaced_by_the_best_shorter_one() -> None:
    """All of a's hull is one step of 8 bytes; of 7 left, 4 buy a2, and the worse a1 does not come after it."""
    candidates = {"a": [(1, 5.0, "a0"), (4, 4.0, "a1"), (5, 3.0, "a2"), (9, 0.0, "a3")]}
    assert fit_budget(candidates, {"a": 8}, 8, explicit=True) == ({"a": "a2"}, 5.0)


def test_known_answer() -> None:
    candidates = {"a": [(10, 8.0, "a2"), (20, 2.0, "a3"), (30, 0.0, "a4")], "b": [(10, 4.0, "b2"), (20, 1.0, "b3"), (30, 0.0, "b4")]}
    weights = {"a": 40, "b": 40}
    chosen = {bits: fit_budget(candidates, weights, bits, explicit=True)[0] for bits in (2, 2.9, 3, 4, 5, 6, 99)}
    assert {bits: tuple(grids.values()) for bits, grids in chosen.items()} == {
        2: ("a2", "b2"),
        2.9: ("a2", "b2"),
        3: ("a3", "b2"),
        4: ("a3", "b3"),
        5: ("a4", "b3"),
        6: ("a4", "b4"),
        99: ("a4", "b4"),
    }


def test_a_budget_met_exactly_is_met() -> None:
    """3.3 bits of 80 weights are 33 bytes, although the double nearest to 3.3 is below it."""
    grids, reached = fit_budget({"a": [(30, 1.0, "small"), (33, 0.0, "large")]}, {"a": 80}, 3.3, explicit=True)
    assert grids == {"a": "large"} and reached == 3.3


def test_the_choice_does_not_depend_on_the_order_of_the_candidates() -> None:
    source = random.Random(0)
    candidates = {name: [(source.randint(1, 30), float(source.randint(0, 9)), f"{name}{i}") for i in range(6)] for name in "abcdef"}
    weights = dict.fromkeys("abcdef", 30)
    expected = fit_budget(candidates, weights, 4.0, explicit=False)[0]
    for _ in range(20):
        names = source.sample(list(candidates), len(candidates))
        shuffled = {name: source.sample(candidates[name], 6) for name in names}
        result = fit_budget(shuffled, weights, 4.0, explicit=False)[0]
        assert cost(candidates, result) == cost(candidates, expected)


@pytest.mark.parametrize(("weights", "smallest", "advice"), [(80, r"3\.0000", "3.0"), (77, r"3\.1169", "3.117")])
def test_an_explicit_budget_out_of_reach_names_the_smallest_and_advice_that_works(weights: int, smallest: str, advice: str) -> None:
    candidates = {"a": [(30, 1.0, "small"), (40, 0.0, "large")]}
    with pytest.raises(ConfigError, match=rf"bits 2\.5 cannot be reached; the smallest reachable .* is {smallest} .*--bits {advice}$"):
        fit_budget(candidates, {"a": weights}, 2.5, explicit=True)
    assert fit_budget(candidates, {"a": weights}, float(advice), explicit=True)[0] == {"a": "small"}


def test_a_default_budget_out_of_reach_takes_the_smallest_and_says_how_large_it_is() -> None:
    assert fit_budget({"a": [(30, 1.0, "small"), (40, 0.0, "large")]}, {"a": 80}, 2.5, explicit=False) == ({"a": "small"}, 3.0)


@pytest.mark.parametrize("bits", [0, -1.0, float("nan"), float("inf")])
def test_bits_are_a_positive_number(bits: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        fit_budget({"a": [(30, 1.0, "small")]}, {"a": 80}, bits, explicit=False)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocks.0.att.value", ["blocks.0.att.value.weight"]),
        ("blocks.1.att.value.weight", ["blocks.1.att.value.weight"]),  # and not blocks.10
        ("att.value", [f"blocks.{i}.att.value.weight" for i in (0, 1, 10)]),
        ("value", [name for name in NAMES if "value" in name]),
        ("blocks.1*.w1", ["blocks.1.att.w1", "blocks.10.att.w1"]),
        ("blocks.?.ffn", ["blocks.0.ffn.value.weight", "blocks.1.ffn.value.weight"]),
        ("time_maa_w2", [f"blocks.{i}.att.time_maa_w2.3" for i in (0, 1, 10)]),
        ("*", NAMES),
    ],
)
def test_patterns_match_runs_of_dotted_parts(pattern: str, expected: list[str]) -> None:
    assert override_bits([f"{pattern}=8"], NAMES) == dict.fromkeys(expected, 8)


def test_the_last_matching_pattern_counts() -> None:
    result = override_bits(["att=4", "blocks.0=8"], NAMES)
    assert result["blocks.0.att.w1"] == 8 and result["blocks.1.att.w1"] == 4 and "blocks.1.ffn.value.weight" not in result


def test_a_misspelt_pattern_names_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"name like 'blocks.0.att.valeu' .*Did you mean blocks\.0\.att\.value"):
        override_bits(["blocks.0.att.valeu=8"], NAMES)
    with pytest.raises(ConfigError, match="The names are like blocks"):
        override_bits(["%=8"], NAMES)


@pytest.mark.parametrize("override", ["att.value", "att.value=", "att.value=9", "att.value=1", "att.value=x", "=4", "att.value=-3", ""])
def test_an_override_needs_a_pattern_and_bits(override: str) -> None:
    with pytest.raises(ConfigError, match="PATTERN=BITS"):
        override_bits([override], NAMES)

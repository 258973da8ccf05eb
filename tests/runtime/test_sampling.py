"""Sampling: BlinkDL's distribution, known answers for the penalties, the same tokens for the same seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv.utils import PIPELINE

from rwkvquant.errors import ConfigError
from rwkvquant.kernels.sampling import probabilities
from rwkvquant.runtime.sampling import MAX_PENALTY, Sampler, SamplingConfig

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))


def test_greedy_takes_the_likeliest_and_of_equal_ones_the_first() -> None:
    sampler = Sampler(SamplingConfig(temperature=0))
    assert sampler.next(np.array([0.0, 3.0, -1.0, 3.0], np.float32)) == 1


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.05, 0.5, 0.15, 0.3]),
        (1.0, 0.79, [0, 5 / 8, 0, 3 / 8]),
        (1.0, 0.81, [0, 50 / 95, 15 / 95, 30 / 95]),
        (0.5, 0.79, [0, 25 / 34, 0, 9 / 34]),  # top-p before the temperature, which squares what is left
        (2.0, 1.0, np.sqrt([0.05, 0.5, 0.15, 0.3]) / np.sqrt([0.05, 0.5, 0.15, 0.3]).sum()),
        (1.0, 0.0, [0, 1, 0, 0]),
        (1e-6, 1.0, [0, 1, 0, 0]),
    ],
)
def test_the_distribution_has_known_answers(temperature: float, top_p: float, expected: list[float]) -> None:
    np.testing.assert_allclose(probabilities(LOGITS.astype(np.float64), temperature, top_p), expected, atol=1e-7)


def test_tokens_as_likely_as_the_last_kept_one_stay() -> None:
    np.testing.assert_allclose(probabilities(np.zeros(4), 1.0, 0.3), [0.25] * 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 5 / 8, 0, 3 / 8]),
        ({"top_k": 4}, [0.05, 0.5, 0.15, 0.3]),
        ({"top_k": 9}, [0.05, 0.5, 0.15, 0.3]),
        ({"top_k": 3, "top_p": 0.84}, [0, 5 / 8, 0, 3 / 8]),  # 0.8 of 0.95 is the share 0.842: top-k before top-p
        ({"top_k": 2, "temperature": 0.5}, [0, 25 / 34, 0, 9 / 34]),
        ({"min_p": 0.29}, [0, 50 / 95, 15 / 95, 30 / 95]),  # 0.15 is 0.3 of 0.5
        ({"min_p": 0.31}, [0, 5 / 8, 0, 3 / 8]),
        ({"min_p": 1.0}, [0, 1, 0, 0]),
        ({"min_p": 0.31, "temperature": 0.5}, [0, 25 / 34, 0, 9 / 34]),  # min-p before the temperature
        ({"min_p": 0.31, "top_p": 0.81}, [0, 5 / 8, 0, 3 / 8]),
    ],
)
def test_top_k_and_min_p_have_known_answers(options: dict[str, Any], expected: list[float]) -> None:
    filters = {"temperature": 1.0, "top_p": 1.0} | options
    np.testing.assert_allclose(probabilities(LOGITS.astype(np.float64), **filters), expected, atol=1e-7)


def test_tokens_as_likely_as_the_last_of_top_k_stay() -> None:
    scores = np.array([1.0, 0.0, 1.0, 1.0, -np.inf])
    np.testing.assert_allclose(probabilities(scores, 1.0, 1.0, top_k=2), [1 / 3, 0, 1 / 3, 1 / 3, 0])


def test_min_p_1_keeps_the_likeliest_and_its_equals() -> None:
    np.testing.assert_allclose(probabilities(np.array([1.0, 1.0, np.nextafter(1, 0)]), 1.0, 1.0, min_p=1.0), [0.5, 0.5, 0])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), top_k=st.integers(1, 10), temperature=st.sampled_from([0.3, 1.0, 1.7]))
def test_top_k_is_blinkdls_where_top_p_is_off(seed: int, top_k: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).standard_normal(50).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        captured: list[Any] = []
        patch.setattr(np.random, "choice", lambda a, p: captured.append(p) or 0)
        PIPELINE.sample_logits(None, torch.from_numpy(logits), temperature, 0.99999, top_k)  # its 1.0 may mean 0: the sum in float32
    np.testing.assert_allclose(probabilities(logits.astype(np.float64), temperature, 1.0, top_k), captured[0], atol=2e-6)


def test_the_sampler_uses_top_k_and_min_p() -> None:
    for options in ({"top_k": 2}, {"min_p": 0.31}):
        sampler = Sampler(SamplingConfig(temperature=1, top_p=1, seed=1, **options))
        assert {sampler.next(LOGITS) for _ in range(200)} == {1, 3}


def test_filters_that_leave_nothing_out_draw_the_same_tokens_as_none() -> None:
    plain, filtered = (Sampler(SamplingConfig(seed=5, **options)) for options in ({}, {"top_k": 1000, "min_p": 1e-300}))
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert [plain.next(logits) for _ in range(50)] == [filtered.next(logits) for _ in range(50)]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([0.3, 1.0, 1.7]), top_p=st.sampled_from([0.2, 0.5, 0.85]))
def test_the_distribution_is_blinkdls(seed: int, temperature: float, top_p: float) -> None:
    logits = 3 * np.random.default_rng(seed).standard_normal(50).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        captured: list[Any] = []
        patch.setattr(np.random, "choice", lambda a, p: captured.append(p) or 0)
        PIPELINE.sample_logits(None, torch.from_numpy(logits), temperature, top_p)
    np.testing.assert_allclose(probabilities(logits.astype(np.float64), temperature, top_p), captured[0], atol=2e-6)  # theirs is float32


def test_draws_follow_the_distribution() -> None:
    sampler = Sampler(SamplingConfig(temperature=1, top_p=1, seed=1))
    counts = np.bincount([sampler.next(LOGITS) for _ in range(8000)], minlength=4)
    expected = np.exp(LOGITS)
    deviation = np.sqrt(8000 * expected * (1 - expected))
    assert (np.abs(counts - 8000 * expected) < 4 * deviation).all()


def test_penalties_fade_before_the_chosen_token_is_counted() -> None:
    """Worked by hand: occurrences after each step are 1 | .5 1 | 1.25 .5 | .625 1.25 | ... (counting first gives 0 1 0 0)."""
    sampler = Sampler(SamplingConfig(temperature=0, frequency_penalty=1.0, penalty_decay=0.5))
    logits = np.array([1.0, 0.6, -9.0], np.float32)
    assert [sampler.next(logits) for _ in range(6)] == [0, 1, 0, 1, 0, 1]
    assert logits.tolist() == np.array([1.0, 0.6, -9.0], np.float32).tolist()


def test_presence_is_taken_off_once_however_often_a_token_occurred() -> None:
    sampler = Sampler(SamplingConfig(temperature=0, presence_penalty=0.5))
    assert [sampler.next(np.array([1.0, 0.6], np.float32)) for _ in range(3)] == [0, 1, 0]


def test_forgetting_clears_the_penalties_only() -> None:
    config = SamplingConfig(temperature=1, top_p=1, frequency_penalty=100.0, seed=4)
    sampler, fresh = Sampler(config), Sampler(config)
    first = sampler.next(LOGITS)
    sampler.forget()
    fresh.next(np.eye(4, dtype=np.float32)[0] * 100)  # uses up one random number as well
    fresh.forget()
    assert [sampler.next(LOGITS) for _ in range(4)] == [fresh.next(LOGITS) for _ in range(4)]
    greedy = Sampler(SamplingConfig(temperature=0, frequency_penalty=100.0))
    assert [greedy.next(LOGITS), greedy.next(LOGITS)] == [1, 3]
    greedy.forget()
    assert greedy.next(LOGITS) == 1
    assert 0 <= first < 4


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingConfig(temperature=1, top_p=1, seed=seed))
        return [sampler.next(np.zeros(1000, np.float32)) for _ in range(20)]

    assert draw(7) == draw(7) != draw(8)


def test_a_banned_token_is_never_drawn() -> None:
    sampler = Sampler(SamplingConfig(temperature=5, top_p=1, seed=0))
    assert {sampler.next(np.array([0, -np.inf, 0], np.float32)) for _ in range(200)} == {0, 2}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="logits must be finite"):
        Sampler(SamplingConfig()).next(np.array([0, value], np.float32))


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"temperature": -1},
            {"temperature": np.nan},
            {"top_p": 1.1},
            {"penalty_decay": -0.1},
            {"presence_penalty": np.inf},
            {"seed": -1},
        ),
        *({"top_k": -1}, {"top_k": 1.5}, {"top_k": True}, {"min_p": -0.1}, {"min_p": 1.1}, {"min_p": np.nan}),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SamplingConfig(**options)


@pytest.mark.parametrize("value", [1e39, -1e300, 2e9, math.inf, math.nan])
@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_that_float32_cannot_take_is_refused_as_an_option(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a number from -1e\\+09 to 1e\\+09"):
        SamplingConfig(**{name: value})


@pytest.mark.filterwarnings("error")
def test_the_largest_penalties_and_temperatures_still_choose() -> None:
    for penalty in (MAX_PENALTY, -MAX_PENALTY):
        for temperature in (5e-324, 1.0, 1e300):
            config = SamplingConfig(temperature, presence_penalty=penalty, frequency_penalty=penalty, penalty_decay=1.0, seed=0)
            sampler = Sampler(config)
            assert all(0 <= sampler.next(np.zeros(4, np.float32)) < 4 for _ in range(100))

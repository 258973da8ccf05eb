import numpy as np
import pytest

from rwkvquant.evaluation import bootstrap
from rwkvquant.evaluation.bootstrap import blocks_of_draws, draws, interval, resampled_means


def test_the_same_seed_gives_the_same_draws() -> None:
    sums, tokens = np.random.default_rng(0).normal(size=(2, 30)), np.full(30, 7)
    first = resampled_means(sums, tokens, resamples=50, seed=1)
    np.testing.assert_array_equal(first, resampled_means(sums, tokens, resamples=50, seed=1))
    assert (first != resampled_means(sums, tokens, resamples=50, seed=2)).any()


@pytest.mark.parametrize("at_once", [1, 100, 1 << 20])
@pytest.mark.parametrize("count", [1, 7, 30])
def test_draws_in_blocks_are_the_draws_one_by_one(count: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "AT_ONCE", at_once)
    wanted = np.stack(list(draws(count, 50, seed=3)), axis=1)
    np.testing.assert_array_equal(np.concatenate(list(blocks_of_draws(count, 50, seed=3)), axis=1), wanted)
    sums, tokens = np.random.default_rng(0).normal(size=(2, count)), np.random.default_rng(1).integers(1, 500, count)
    means = resampled_means(sums, tokens, resamples=50, seed=3)
    np.testing.assert_allclose(means, np.stack([sums @ t / (tokens @ t) for t in wanted.T], axis=1), rtol=1e-12)


def test_the_weight_of_a_window_is_its_number_of_tokens() -> None:
    """Two windows, sums 10 and 0, tokens 1 and 9: the draws can only be both (10/10), twice the first (20/2) or twice the second."""
    draws = resampled_means(np.array([[10.0, 0.0]]), np.array([1, 9]), resamples=100)
    assert set(draws[0]) == {1.0, 10.0, 0.0}


def test_quantities_share_their_draws() -> None:
    """Two quantities that differ by a constant per token differ by it in every draw: what varies in the text cancels."""
    tokens = np.random.default_rng(0).integers(1, 500, 40)
    sums = np.random.default_rng(1).normal(size=40) * tokens
    first, second = resampled_means(np.stack([sums, sums + 0.25 * tokens]), tokens)
    np.testing.assert_allclose(second - first, 0.25, rtol=1e-9)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    random, covered, trials = np.random.default_rng(5), 0, 300
    for trial in range(trials):
        tokens = random.integers(50, 512, 80)
        sums = tokens * random.gamma(2.0, 0.5, 80)  # skewed, as KL is; the mean over tokens is 1
        low, high = interval(resampled_means(sums[None], tokens, resamples=300, seed=trial)[0], 80) or (2, 2)
        covered += low <= 1 <= high
    # Skewed data and 80 windows lose a point or two; 300 trials have a standard error of 1.3 points.
    assert 0.90 <= covered / trials <= 0.985


def test_the_interval_is_the_middle_95_percent() -> None:
    assert interval(np.linspace(0, 100, 1001), 2) == pytest.approx((2.5, 97.5))


def test_a_single_window_has_no_interval() -> None:
    assert interval(np.zeros(10), 1) is None

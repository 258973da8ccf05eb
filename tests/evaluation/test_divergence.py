import json
import math

import numpy as np
import pytest
import torch

from rwkvquant.errors import RwkvQuantError, TokenizerError
from rwkvquant.evaluation.divergence import compare, compare_many, difference
from rwkvquant.evaluation.perplexity import perplexity
from rwkvquant.evaluation.windows import document_windows
from tests.evaluation.toys import Bigram, Bytes, Recurrent, random_bigram, some_windows, uniform


def near(model: Bigram, noise: float, seed: int = 9) -> Bigram:
    return Bigram(model.table + noise * torch.randn(model.table.shape, generator=torch.Generator().manual_seed(seed)))


def test_identical_models_have_a_divergence_of_exactly_0() -> None:
    result = compare(Recurrent(), Recurrent(), some_windows()).to_json()
    for key in ("kl_mean", "kl_p99", "kl_max", "delta_ppl"):
        assert result[key] == 0.0, key
    assert result["kl_ci95"] == [0.0, 0.0]
    assert result["delta_ppl_ci95"] == [0.0, 0.0]
    assert result["top1_agreement"] == 1.0
    assert result["top1_ci95"] == [1.0, 1.0]


def test_kl_is_its_definition_on_random_logits() -> None:
    base, other, windows = random_bigram(1), random_bigram(2), some_windows()
    p, q = (np.exp(m.table.double().numpy()) for m in (base, other))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    by_token = (p * np.log(p / q)).sum(1)  # by the token before
    inputs = windows.inputs[windows.mask]
    result = compare(base, other, windows, batch=2)
    np.testing.assert_allclose(result.kl, by_token[inputs], rtol=1e-12)
    np.testing.assert_array_equal(result.same_top1, (p.argmax(1) == q.argmax(1))[inputs])
    numbers = result.to_json()
    assert numbers["kl_mean"] == pytest.approx(by_token[inputs].mean(), rel=1e-12)
    assert numbers["kl_p99"] == pytest.approx(np.quantile(by_token[inputs], 0.99), rel=1e-12)
    assert numbers["kl_max"] == pytest.approx(by_token[inputs].max(), rel=1e-12)


def test_kl_is_that_of_the_original_from_the_quantised_model() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = ln 2 - H(p) = 0.1308, and the other way round 0.1438."""
    base, half = Bigram(torch.log(torch.tensor([[0.75, 0.25]] * 2))), uniform(2)
    windows = document_windows(["\1\1\1"], Bytes())
    assert compare(base, half, windows).to_json()["kl_mean"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert compare(half, base, windows).to_json()["kl_mean"] == pytest.approx(-0.5 * math.log(0.75), rel=1e-6)


def test_a_small_divergence_is_measured_exactly() -> None:
    """One logit of a uniform model moved by e: KL = e^2/2 * (1/V)(1 - 1/V) + O(e^3), here 7e-9, far below float32's rounding of ln p."""
    moved = torch.zeros(256, 256)
    moved[:, 7] = 2**-9
    expected = 2**-19 * (1 / 256) * (255 / 256)
    assert compare(uniform(), Bigram(moved), some_windows()).to_json()["kl_mean"] == pytest.approx(expected, rel=3e-3)


def test_perplexities_are_those_of_each_model_alone() -> None:
    base, other, windows = random_bigram(1), random_bigram(2), some_windows()
    result = compare(base, other, windows).to_json()
    assert result["ppl_base"] == perplexity(base, windows).ppl
    assert result["ppl_quantized"] == perplexity(other, windows).ppl
    assert result["delta_ppl"] == result["ppl_quantized"] - result["ppl_base"]


def test_many_candidates_share_one_run_of_the_base() -> None:
    base, models, windows = random_bigram(1), {"a": random_bigram(2), "b": random_bigram(3)}, some_windows()
    results = compare_many(base, models, windows, batch=4)
    assert len(base.calls) == 1 + 3  # one token to find the size of the vocabulary, and nine windows in batches of four
    for name, model in models.items():
        alone = compare(base, model, windows, batch=4)
        for field in ("kl", "same_top1", "nll_base", "nll_quantized"):
            np.testing.assert_array_equal(getattr(results[name], field), getattr(alone, field))


@pytest.mark.parametrize("batch", [2, 100])
def test_batches_and_padding_change_nothing(batch: int) -> None:
    windows = some_windows()
    one, many = (compare(Recurrent(0), Recurrent(1), windows, batch=b).to_json() for b in (1, batch))
    assert one == many


def test_the_result_is_plain_json_with_its_keys_and_conditions() -> None:
    result = compare(uniform(), random_bigram(0), some_windows()).to_json(resamples=1000, seed=4)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {
        "kl_mean",
        "kl_ci95",
        "kl_p99",
        "top1_agreement",
        "ppl_base",
        "ppl_quantized",
        "delta_ppl",
        "delta_ppl_ci95",
        "tokens",
    } <= result.keys()
    assert (result["resamples"], result["seed"], result["tokens"], result["windows"]) == (1000, 4, 97, 9)
    low, high = result["kl_ci95"]
    assert low < result["kl_mean"] < high


def test_a_single_window_gives_numbers_without_an_interval() -> None:
    result = compare(uniform(), random_bigram(0), document_windows(["abc"], Bytes())).to_json()
    assert result["kl_mean"] > 0
    assert result["kl_ci95"] is None


def test_the_difference_of_two_candidates_has_a_smaller_interval_than_either() -> None:
    """b is a with a little more noise. Their intervals overlap, but the interval of the difference does not contain 0."""
    base, windows = random_bigram(0), some_windows(lengths=[200] * 10)
    models = {"a": near(base, 0.500), "b": near(base, 0.505)}
    a, b = compare_many(base, models, windows).values()
    result = difference(a, b)
    low, high = result["kl_difference_ci95"]
    assert result["kl_difference"] == pytest.approx(a.kl.mean() - b.kl.mean())
    assert low < result["kl_difference"] < high < 0
    assert a.to_json()["kl_ci95"][1] > b.to_json()["kl_ci95"][0]


def test_a_candidate_does_not_differ_from_itself() -> None:
    result = compare(uniform(), random_bigram(0), some_windows())
    assert difference(result, result)["kl_difference_ci95"] == [0.0, 0.0]


def test_differences_need_the_same_windows() -> None:
    first, second = (compare(uniform(), random_bigram(0), some_windows(seed)) for seed in (0, 1))
    with pytest.raises(AssertionError, match="same windows"):
        difference(first, second)


def test_a_quantised_model_whose_predictions_are_not_finite_is_named() -> None:
    infinite = torch.zeros(256, 256)
    infinite[:, 0] = -math.inf  # token 0 is never the target, so only the divergence is infinite
    with pytest.raises(RwkvQuantError, match="those of infinite are not"):
        compare_many(uniform(), {"infinite": Bigram(infinite)}, some_windows())
    with pytest.raises(RwkvQuantError, match="those of broken are not"):
        compare_many(uniform(), {"fine": uniform(), "broken": Bigram(torch.full((256, 256), math.nan))}, some_windows())


def test_vocabularies_must_agree() -> None:
    with pytest.raises(TokenizerError, match="the original has 256 tokens and the quantised model has 300"):
        compare(uniform(256), uniform(300), some_windows())

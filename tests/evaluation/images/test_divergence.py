"""KL and agreement of models for images are their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from rwkvquant.errors import ConfigError, RwkvQuantError
from rwkvquant.evaluation.images import compare_many, difference
from tests.evaluation.images.toys import MODELS, Toy, numbered, random


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("task", MODELS)
def test_a_model_compared_with_itself_has_no_divergence(task: str) -> None:
    result = compare_many(MODELS[task](), {"q": MODELS[task]()}, numbered(4))["q"].result(resamples=20).to_json()
    assert result["kl_mean"] == result["kl_p99"] == result["kl_max"] == 0 and result["kl_ci95"] == [0, 0]
    assert result["top1_agreement"] == 1 and result["images"] == 4 and result["score"] is None
    assert result["positions"] == {"classify": 1, "segment": 96, "detect": 6}[task]


def test_of_classes_it_is_that_of_their_probabilities() -> None:
    p, q = random(4, 6), random(4, 6, seed=1)
    compared = compare_many(Toy("classify", p), {"q": Toy("classify", q)}, numbered(4), batch=3)["q"]
    log_p, log_q = (np.log(softmax(logits.numpy(), 1)) for logits in (p, q))
    np.testing.assert_allclose(compared.kl, (np.exp(log_p) * (log_p - log_q)).sum(1), rtol=1e-6)
    np.testing.assert_array_equal(compared.same, (p.argmax(1) == q.argmax(1)).numpy())


def test_of_segmentation_it_is_the_mean_over_pixels() -> None:
    p, q = random(4, 3, 8, 12), random(4, 3, 8, 12, seed=1)
    compared = compare_many(Toy("segment", p), {"q": Toy("segment", q)}, numbered(4), batch=3)["q"]
    probabilities_p, probabilities_q = (softmax(logits.numpy(), 1) for logits in (p, q))
    each = (probabilities_p * np.log(probabilities_p / probabilities_q)).sum(1)  # (N, height, width)
    result = compared.result(resamples=20)
    assert result.kl_mean == pytest.approx(each.mean(), rel=1e-6)
    assert result.kl_max == pytest.approx(each.mean((1, 2)).max(), rel=1e-6)
    assert result.top1_agreement == pytest.approx(float((p.argmax(1) == q.argmax(1)).double().mean()))


def test_of_boxes_it_is_that_of_classes_and_where_one_is_there_of_the_box() -> None:
    """Summed over every answer that a patch may give: which of two classes are there, and then the centre and the sides."""
    p, q = MODELS["detect"](0), MODELS["detect"](5)
    result = compare_many(p, {"q": q}, numbered(4), batch=3)["q"].result(resamples=20)
    yes_p, yes_q = (1 / (1 + np.exp(-model._outputs[0].double().numpy())) for model in (p, q))
    centre_p, centre_q = (1 / (1 + np.exp(-model._outputs[2][:, 0].double().numpy())) for model in (p, q))
    sides_p, sides_q = (model._outputs[1].double().numpy() for model in (p, q))
    box = centre_p * np.log(centre_p / centre_q) + (1 - centre_p) * np.log((1 - centre_p) / (1 - centre_q))
    box += ((sides_p - sides_q) ** 2).sum(1) / (2 * 0.1**2)  # of two normal distributions with one deviation
    each = np.zeros_like(box)
    for first, second in itertools.product((False, True), repeat=2):
        both = [np.where(first, y[:, 0], 1 - y[:, 0]) * np.where(second, y[:, 1], 1 - y[:, 1]) for y in (yes_p, yes_q)]
        each += both[0] * (np.log(both[0] / both[1]) + (box if first or second else 0))
    assert result.kl_mean == pytest.approx(each.mean(), rel=1e-6)
    chosen = [np.where(yes.max(1) > 0.5, yes.argmax(1), -1) for yes in (yes_p, yes_q)]
    assert result.top1_agreement == pytest.approx((chosen[0] == chosen[1]).mean())


def test_it_is_that_of_the_original_from_the_quantised_model() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2."""
    base, half = Toy("classify", torch.log(torch.tensor([[0.75, 0.25]] * 2))), Toy("classify", torch.zeros(2, 2))
    assert compare_many(base, {"q": half}, numbered(2))["q"].kl.mean() == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), rel=1e-6)


def test_very_sure_detectors_have_a_finite_divergence() -> None:
    sides, centre = random(1, 4, 2, 3), random(1, 1, 2, 3)
    models = [Toy("detect", torch.full((1, 2, 2, 3), logit), sides, centre) for logit in (-200.0, 200.0)]
    assert compare_many(models[0], {"q": models[1]}, numbered(1))["q"].kl[0] == pytest.approx(200 * 12)
    assert compare_many(models[1], {"q": models[0]}, numbered(1))["q"].kl[0] == pytest.approx(200 * 12)


def test_the_base_runs_once_for_all_candidates() -> None:
    base, models = MODELS["classify"](), {name: MODELS["classify"](seed) for seed, name in enumerate("abc", 1)}
    compared = compare_many(base, models, numbered(4), batch=2)
    assert base.calls == 2
    for name, model in models.items():
        alone = compare_many(base, {"q": model}, numbered(4), batch=4)["q"]
        np.testing.assert_array_equal(compared[name].kl, alone.kl)


def test_a_difference_is_paired() -> None:
    """Images that are hard for both differ in the same way: the interval of the difference is far smaller than each alone."""
    p = random(40, 6) * torch.linspace(0, 3, 40)[:, None]
    base, near = Toy("classify", p), Toy("classify", p * 0.9)
    far = Toy("classify", p * 0.8)
    compared = compare_many(base, {"near": near, "far": far}, numbered(40))
    mean, bounds = difference(compared["near"], compared["far"])
    assert bounds is not None and bounds[0] < mean < bounds[1] < 0
    assert mean == pytest.approx(compared["near"].kl.mean() - compared["far"].kl.mean())
    alone = compared["far"].result(resamples=200).kl_ci95
    assert alone is not None and bounds[1] - bounds[0] < alone[1] - alone[0]


def test_models_of_other_kinds_are_refused() -> None:
    base = MODELS["classify"]()
    for other in (MODELS["segment"](), Toy("classify", random(4, 7)), Toy("classify", random(4, 6), grid=(3, 3))):
        with pytest.raises(ConfigError, match="can be compared if task, classes, patch and grid are the same"):
            compare_many(base, {"q": other}, numbered(4))
    with pytest.raises(ConfigError, match="the original has no head that this version knows"):
        compare_many(Toy(None), {}, numbered(4))


@pytest.mark.parametrize("task", MODELS)
def test_a_model_that_predicts_nan_is_refused(task: str) -> None:
    broken = MODELS[task]()
    broken._outputs[-1][1] = float("nan")
    with pytest.raises(RwkvQuantError, match="predictions must be finite numbers; those of q are not"):
        compare_many(MODELS[task](), {"q": broken}, numbered(4))

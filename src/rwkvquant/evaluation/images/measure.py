"""Run models over a set of images: their scores on labels, and how far their predictions are from an original's.

Both models read the same images. Each image has P positions: 1 for classes, its pixels for segmentation, its patches for boxes.

    KL          1 / (N P) sum over images and positions of KL(p || q)      nats per position, float64 from float32 logits
    agreement   the share of positions where both predict the same

Intervals are those of bootstrap.py, over images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError, ImageError
from rwkvquant.evaluation.bootstrap import RESAMPLES, draws, interval, resampled_means
from rwkvquant.evaluation.images.classes import ClassHead
from rwkvquant.evaluation.images.head import Head, Outputs, Predictor, Scores
from rwkvquant.evaluation.images.pixels import PixelHead
from rwkvquant.evaluation.images.places import PlaceHead
from rwkvquant.evaluation.scoring import checked
from rwkvquant.images import Batch, ImageSet, preprocessing_for
from rwkvquant.results import ImageCompareResult, Interval

HEADS: dict[str, Head] = {"classify": ClassHead(), "segment": PixelHead(), "detect": PlaceHead()}
OnBatch = Callable[[int, int], None]  # (images done, images in all), after each batch
SEED = 0


@dataclass(frozen=True)
class Measured:
    """The scores of one model on a set with labels."""

    head: Head
    images: ImageSet
    scores: Scores

    def result(self, *, resamples: int | None = None) -> Any:
        """ClassificationScores, SegmentationScores or DetectionScores."""
        values, drawn = drawn_values(self.scores, len(self.images), resamples or self.head.resamples)
        fields: dict[str, Any] = {**values, **{f"{name}_ci95": interval(drawn[name], len(self.images)) for name in values}}
        return self.head.result(**fields, **self.scores.details(), **_conditions(self.images, resamples or self.head.resamples))


@dataclass(frozen=True)
class Comparison:
    """One candidate compared with the base. `kl` and `same` (N,) are sums over the positions of an image, of which each has `positions`."""

    head: Head
    images: ImageSet
    kl: NDArray[np.float64]
    same: NDArray[np.float64]
    positions: int
    base_scores: Scores | None
    scores: Scores | None

    def result(self, *, resamples: int = RESAMPLES) -> ImageCompareResult:
        """The numbers and their conditions."""
        count, each = len(self.images), self.kl / self.positions
        kl, same = resampled_means(
            np.stack([self.kl, self.same]) / self.positions, np.ones(count, np.int64), resamples=resamples, seed=SEED
        )
        return ImageCompareResult(
            kl_mean=float(each.mean()),
            kl_ci95=interval(kl, count),
            kl_p99=float(np.quantile(each, 0.99)),
            kl_max=float(each.max()),
            top1_agreement=float(self.same.mean() / self.positions),
            top1_ci95=interval(same, count),
            **self._scores(min(resamples, self.head.resamples)),
            positions=self.positions,
            **_conditions(self.images, resamples),
        )

    def _scores(self, resamples: int) -> dict[str, Any]:
        """Of both models, and the difference: its draws are paired."""
        if self.base_scores is None or self.scores is None:
            return {"score": None, "score_base": None, "score_quantized": None, "delta_score": None, "delta_score_ci95": None}
        count = len(self.images)
        (before, drawn_before), (after, drawn_after) = (drawn_values(each, count, resamples) for each in (self.base_scores, self.scores))
        name = main_score(before)
        return {
            "score": name,
            "score_base": before[name],
            "score_quantized": after[name],
            "delta_score": after[name] - before[name],
            "delta_score_ci95": interval(drawn_after[name] - drawn_before[name], count),
        }


def main_score(values: Mapping[str, float]) -> str:
    """The one that papers compare: top1, miou, ap50."""
    return "ap50" if "ap50" in values else next(iter(values))


def drawn_values(scores: Scores, count: int, resamples: int) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Each score of `count` images, and its values on the draws of the bootstrap."""
    values = scores.values(np.ones(count, np.int64))
    drawn = [scores.values(times) for times in draws(count, resamples, SEED)]
    return values, {name: np.array([each[name] for each in drawn]) for name in values}


def evaluate(model: Predictor, images: ImageSet, *, batch: int = 16, progress: OnBatch | None = None, what: str = "the model") -> Measured:
    """Run the model over all images. Raises ImageError if they have no labels for its head, ConfigError if it has no head of ours."""
    head = head_of(model, what)
    scores = head.scores(images, model.settings.classes, model.dims)
    if scores is None:
        raise ImageError(f"{images.path}: to measure a model that can {model.task}, a set needs {_labels(model.task)} (docs/images.md)")
    for part in _batches(model, images, batch, progress):
        scores.add(part, _run(head, model, part, what))
    return Measured(head, images, scores)


def compare_many(
    base: Predictor, models: Mapping[str, Predictor], images: ImageSet, *, batch: int = 16, progress: OnBatch | None = None
) -> dict[str, Comparison]:
    """Compare every model with `base` on the same images, with scores if these have labels. The base runs once.

    Raises ConfigError for models with other heads or classes, RwkvQuantError if a model predicts NaN.
    """
    head = head_of(base, "the original")
    for name, model in models.items():
        kinds = [(each.task, each.dims.classes, each.dims.patch, each.settings.grid) for each in (base, model)]
        if kinds[0] != kinds[1]:
            raise ConfigError(
                "models for images can be compared if task, classes, patch and grid are the same; "
                f"the original has {kinds[0]} and {name} has {kinds[1]}"
            )
    count = len(images)
    results = {name: (np.zeros(count), np.zeros(count)) for name in models}
    scored = {name: head.scores(images, model.settings.classes, model.dims) for name, model in ({"": base} | dict(models)).items()}
    positions = 1
    for part in _batches(base, images, batch, progress):
        p = _run(head, base, part, "the original")
        _add(scored[""], part, p)
        for name, model in models.items():
            q = _run(head, model, part, name)
            kl, same, positions = head.divergence(p, q)
            results[name][0][part.span], results[name][1][part.span] = checked(kl.cpu().numpy(), name), same.cpu().numpy()
            _add(scored[name], part, q)
    return {name: Comparison(head, images, *sums, positions, scored[""], scored[name]) for name, sums in results.items()}


def difference(first: Comparison, second: Comparison, *, resamples: int = RESAMPLES) -> tuple[float, Interval | None]:
    """KL of `first` minus that of `second`, with its paired interval: `first` is nearer to the base if all of it is below zero."""
    assert first.images.names == second.images.names, "a paired difference needs the same images"
    sums = (first.kl - second.kl)[None] / first.positions
    drawn = resampled_means(sums, np.ones(len(first.images), np.int64), resamples=resamples, seed=SEED)[0]
    return float(sums.mean()), interval(drawn, len(first.images))


def head_of(model: Predictor, what: str) -> Head:
    if model.task is None:
        raise ConfigError(
            f"{what} has no head that this version knows, so nothing can be measured; see docs/checkpoints.md for those it knows"
        )
    return HEADS[model.task]


def _run(head: Head, model: Predictor, part: Batch, what: str) -> Outputs:
    outputs = head.run(model, part.pixels)
    for output in outputs:
        checked(output.cpu().numpy(), what)
    return outputs


def _batches(model: Predictor, images: ImageSet, batch: int, progress: OnBatch | None) -> Any:
    how = preprocessing_for(model.settings, model.dims.patch, model.task)
    for part in images.batches(how, batch):
        yield part
        if progress is not None:
            progress(part.span.stop, len(images))


def _add(scores: Scores | None, part: Batch, outputs: Outputs) -> None:
    if scores is not None:
        scores.add(part, outputs)


def _labels(task: str | None) -> str:
    return {"segment": "`labels` of pixels", "detect": "`boxes`"}.get(str(task), "labels, or a folder for each class")


def _conditions(images: ImageSet, resamples: int) -> dict[str, Any]:
    return {"images": len(images), "images_sha256": images.sha256, "resamples": resamples, "seed": SEED}

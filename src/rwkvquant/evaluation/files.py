"""Measure files: `rwkvquant.compare`, `evaluate`, `evaluate_lambada`, `compare_images`, `evaluate_images`. Other modules measure models."""

from __future__ import annotations

import os
from dataclasses import replace

from rwkvquant.evaluation import divergence, lambada, perplexity, windows
from rwkvquant.evaluation import images as vision
from rwkvquant.evaluation.forwards import TORCH
from rwkvquant.evaluation.images.load import load_image_model
from rwkvquant.evaluation.load import load_forward, load_pair
from rwkvquant.evaluation.scoring import OnBatch
from rwkvquant.images import open_image_set
from rwkvquant.results import (
    ClassificationScores,
    CompareResult,
    DetectionScores,
    EvaluateResult,
    ImageCompareResult,
    LambadaResult,
    SegmentationScores,
)

CONTEXT, BATCH, IMAGES = 512, 8, 16
Path = str | os.PathLike[str]


def compare(
    original: Path,
    quantized: Path,
    text: Path,
    *,
    context: int = CONTEXT,
    batch: int = BATCH,
    max_tokens: int | None = None,
    tokenizer: str | None = None,
    adapter: str | None = None,
    forward: str = TORCH,
    progress: OnBatch | None = None,
) -> CompareResult:
    """Compare a quantised model with its original on a text, in windows of `context` tokens, `batch` windows at a time.

    Either file may be a checkpoint or a packed file. `max_tokens` stops after so many predicted tokens; `tokenizer` is "world", "bytes"
    or a file, by default the quantised file's. `adapter` is merged into the original, a checkpoint. `forward` runs the quantised model:
    "torch", "native" (the engine that ships), or "int4" and the like, with the inputs of products rounded (evaluation/forwards.py); the
    original is always run by torch. `progress` gets (windows done, windows in all).

    Needs torch. Raises CheckpointError or FormatError for a bad file, CalibrationError for a bad text, TokenizerError for two
    vocabularies, ConfigError for an option out of range or an adapter for a packed file, and RwkvQuantError for a model that predicts NaN.
    """
    base, changed, known = load_pair(os.fspath(original), os.fspath(quantized), tokenizer, adapter, forward)
    cut = windows.text_windows(os.fspath(text), known, context=context, max_tokens=max_tokens)
    return replace(divergence.compare(base, changed, cut, batch=batch, progress=progress).result(), forward=forward)


def evaluate(
    file: Path,
    text: Path,
    *,
    context: int = CONTEXT,
    batch: int = BATCH,
    max_tokens: int | None = None,
    tokenizer: str | None = None,
    adapter: str | None = None,
    forward: str = TORCH,
    progress: OnBatch | None = None,
) -> EvaluateResult:
    """The perplexity of a packed file or a checkpoint on a text. Options and errors as in `compare`. Needs torch."""
    model, known = load_forward(os.fspath(file), tokenizer, forward, adapter)
    cut = windows.text_windows(os.fspath(text), known, context=context, max_tokens=max_tokens)
    return EvaluateResult(**perplexity.perplexity(model, cut, batch=batch, progress=progress).to_json(), forward=forward)


def evaluate_lambada(
    file: Path,
    documents: Path,
    *,
    batch: int = BATCH,
    max_docs: int | None = None,
    tokenizer: str | None = None,
    adapter: str | None = None,
    forward: str = TORCH,
    progress: OnBatch | None = None,
) -> LambadaResult:
    """LAMBADA, as BlinkDL measures it, of a packed file or a checkpoint. `documents`: a .jsonl with a "text" in each line. Needs torch.

    `max_docs`: only the first ones. `progress` gets (documents done, documents in all). Errors as in `compare`.
    """
    model, known = load_forward(os.fspath(file), tokenizer, forward, adapter)
    measured = lambada.lambada(model, known, os.fspath(documents), batch=batch, max_docs=max_docs, progress=progress)
    return LambadaResult(**measured.to_json(), forward=forward)


def compare_images(
    original: Path,
    quantized: Path,
    images: Path,
    *,
    batch: int = IMAGES,
    max_images: int | None = None,
    progress: OnBatch | None = None,
) -> ImageCompareResult:
    """Compare a quantised model for images with its original on a set of images: a folder or an .npz (docs/images.md).

    Either file may be a checkpoint or a packed file. `max_images`: only so many, evenly spread. `progress` gets (images done, images in
    all). Needs torch and Pillow; for the precision of boxes also pycocotools. Raises CheckpointError or FormatError for a bad file,
    ImageError for a bad set, ConfigError for text models, for two models of different kinds and for an option out of range, and
    RwkvQuantError for a model that predicts NaN.
    """
    base, changed = (load_image_model(os.fspath(file)) for file in (original, quantized))
    chosen = open_image_set(images).some(max_images)
    name = "the quantised model"
    return vision.compare_many(base, {name: changed}, chosen, batch=batch, progress=progress)[name].result()


def evaluate_images(
    file: Path, images: Path, *, batch: int = IMAGES, max_images: int | None = None, progress: OnBatch | None = None
) -> ClassificationScores | SegmentationScores | DetectionScores:
    """The scores of a packed file or a checkpoint on images with labels. Options and errors as in `compare_images`."""
    model = load_image_model(os.fspath(file))
    chosen = open_image_set(images).some(max_images)
    measured: ClassificationScores | SegmentationScores | DetectionScores
    measured = vision.evaluate(model, chosen, batch=batch, progress=progress).result()
    return measured

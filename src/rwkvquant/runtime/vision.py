"""A model that reads images, from a packed file or an original checkpoint. Torch is never imported.

    model = load("vision.safetensors", modality="image")
    print(model.classify(["photo.jpg"])[0].top[0].name)

Images are files, or arrays of uint8: (height, width, 3) red, green, blue, or (height, width) grey. A file is brought to the model's own
size as in training (images/preprocessing.py), and results are in its own pixels. An array is read as it is, whatever its size.

The blocks run in the native engine (engines/image_native.py), or where the native module is missing in NumPy (engines/image_reference.py).
Results are the same bits for an image alone and among others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import architecture
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.errors import ConfigError
from rwkvquant.formats.pages import Held
from rwkvquant.images import preprocessing_for, read_image
from rwkvquant.kernels import dispatch
from rwkvquant.kernels.boxes import MAX_BOXES, MAX_OVERLAP, find_boxes
from rwkvquant.kernels.images import normalized
from rwkvquant.results import ClassifyResult, ClassScore, ClassShare, DetectResult, FoundBox, SegmentResult
from rwkvquant.runtime.engines.image_base import ImageEngine, forward_of
from rwkvquant.runtime.engines.image_native import NativeImageEngine
from rwkvquant.runtime.engines.image_reference import ReferenceImageEngine
from rwkvquant.runtime.engines.native import chosen_activations
from rwkvquant.runtime.threads import choose_threads
from rwkvquant.runtime.weights import Weights

Pixels = NDArray[np.uint8]
Image = Pixels | str | os.PathLike[str]

MAX_PATCHES = 1 << 14  # of an image: 2048 x 2048 pixels for patches of 16 x 16
PATCHES_AT_ONCE = 1024  # small images are read side by side up to here: each tile of weights is decoded once for 128 patches
THRESHOLD = 0.3  # scores of boxes


@dataclass(frozen=True)
class _Read:
    """What the model reads of an image, (height, width, 3), and the height and width that results are for."""

    pixels: Pixels
    height: int
    width: int


class VisionModel:
    """`arch` names the architecture; `dims` has all sizes; `settings` the names of the classes. No call changes the model."""

    def __init__(self, weights: Weights, settings: ImageSettings, threads: int | None = None, activations: str | None = None) -> None:
        """Raises ConfigError for a model of other images than red, green, blue, and as `load` does."""
        self.arch, self.dims, self.settings = weights.arch, weights.dims, settings
        if self.dims.channels != 3:
            raise ConfigError(f"images have 3 channels, red, green and blue; this model reads {self.dims.channels}")
        self._held, self._forward = weights.held, forward_of(weights.arch)
        self._engine = make_image_engine(weights, settings, threads, activations)
        self.task = architecture(weights.arch).task_in(self._engine.weights)
        self._preprocessing = preprocessing_for(settings, self.dims.patch, self.task)

    @property
    def threads(self) -> int:
        return self._engine.threads

    @property
    def backend(self) -> str:
        """What runs the blocks: "avx512", "avxvnni", "avx2", "i8mm", "neon" or "plain" natively, "reference" for NumPy."""
        return self._engine.name

    @property
    def held(self) -> Held | None:
        """Whether the packed file is mapped or copied, as `Model.held`; None for a checkpoint."""
        return self._held()

    def classify(self, images: Iterable[Image] | Image, top: int = 5) -> list[ClassifyResult]:
        """The `top` likeliest classes of each image. One image may stand alone.

        Raises ConfigError for a model without this head, for `top` below 1 and for arrays of another form or too large, ImageError for a
        file that is no image, FormatError if the packed file became shorter since it was opened.
        """
        self._require("classify")
        if top < 1:
            raise ConfigError(f"top must be at least 1 class; got {top}")
        return [self._classes(logits[0], top) for logits, _ in self._outputs(images)]

    def segment(self, images: Iterable[Image] | Image) -> list[SegmentResult]:
        """The class of each pixel of each image. Raises as `classify` does."""
        self._require("segment")
        return [self._labels(logits[0], image) for logits, image in self._outputs(images)]

    def detect(self, images: Iterable[Image] | Image, threshold: float = THRESHOLD) -> list[DetectResult]:
        """Boxes of each image with a score of at least `threshold`, 0 to 1, the best first; at most 100, and none that overlaps a better
        one of its class by more than half of their union. Raises as `classify` does."""
        self._require("detect")
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be a score from 0 to 1; got {threshold}")
        return [self._boxes(outputs, image, threshold) for outputs, image in self._outputs(images)]

    def logits(self, images: Iterable[Image] | Image) -> list[Any]:
        """What the head gives for each image, float32: classes (K,) of a classifier, (K, height, width) of a segmenter, and of a detector
        three arrays for the patches, classes, sides and centre-ness (kernels/boxes.py). Raises as `classify` does.
        """
        if self.task is None:
            raise ConfigError("this model has no head that this version knows; it gives features only")
        return [tuple(part[0] for part in out) if isinstance(out, tuple) else out[0] for out, _ in self._outputs(images)]

    def features(self, images: Iterable[Image] | Image) -> list[NDArray[np.float32]]:
        """(C, rows, columns) of each image: a vector for each patch. Raises as `classify` does, but needs no head."""
        return [features[0] for features, _ in self._features(images)]

    def name_of(self, index: int) -> str:
        """The name of a class, or its number where names are not known."""
        return self.settings.classes[index] if self.settings.classes else str(index)

    def _require(self, task: str) -> None:
        if self.task is None:
            raise ConfigError(f"this model cannot {task} images: it has no head that this version knows")
        if self.task != task:
            raise ConfigError(f"this model cannot {task} images; its head can {self.task} them")

    def _outputs(self, images: Iterable[Image] | Image) -> Iterator[tuple[Any, _Read]]:
        weights = self._engine.weights
        for features, image in self._features(images):
            if self.task == "segment":
                yield self._forward.segment(weights, features, *image.pixels.shape[:2]), image
            elif self.task == "detect":
                yield self._forward.detect(weights, features), image
            else:
                yield self._forward.classify(weights, features), image

    def _features(self, images: Iterable[Image] | Image) -> Iterator[tuple[NDArray[np.float32], _Read]]:
        """(1, C, rows, columns) of each image."""
        for batch in self._batches(images):
            pixels = normalized(np.stack([image.pixels for image in batch]), self.settings.mean, self.settings.std)
            for index, features in enumerate(self._engine.features(pixels)):
                yield features[None], batch[index]

    def _batches(self, images: Iterable[Image] | Image) -> Iterator[list[_Read]]:
        """Runs of images of one size, as many as are read at once."""
        batch: list[_Read] = []
        for image in _each(images):
            read = self._read(image)
            most = max(1, PATCHES_AT_ONCE // self._patches(read.pixels))
            if batch and (batch[0].pixels.shape != read.pixels.shape or len(batch) == most):
                yield batch
                batch = []
            batch.append(read)
        if batch:
            yield batch

    def _read(self, image: Image) -> _Read:
        if isinstance(image, np.ndarray):
            pixels = _checked(image)
            if self._patches(pixels) > MAX_PATCHES:
                raise ConfigError(
                    f"an image may have {MAX_PATCHES:,} patches of {self.dims.patch} x {self.dims.patch} pixels at most; this array of "
                    f"{pixels.shape[0]} x {pixels.shape[1]} has {self._patches(pixels):,}. Make it smaller, or give the name of a file"
                )
            return _Read(pixels, *pixels.shape[:2])
        if isinstance(image, str | os.PathLike):
            original = read_image(image)
            return _Read(self._preprocessing.fit(original), *original.shape[:2])
        raise ConfigError(f"an image is the name of a file or a NumPy array; got {type(image).__name__}")

    def _patches(self, pixels: Pixels) -> int:
        rows, columns = (-(-side // self.dims.patch) for side in pixels.shape[:2])
        return rows * columns

    def _classes(self, logits: NDArray[np.float32], top: int) -> ClassifyResult:
        weights = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = weights / weights.sum()
        best = np.argsort(-probabilities, kind="stable")[:top].tolist()
        return ClassifyResult(tuple(ClassScore(index, self.name_of(index), float(probabilities[index])) for index in best))

    def _labels(self, logits: NDArray[np.float32], image: _Read) -> SegmentResult:
        labels = logits.argmax(0).astype(np.uint8 if len(logits) <= 256 else np.uint16)
        if labels.shape != (image.height, image.width):  # back to the file's own pixels: of each, the nearest
            rows, columns = (
                (np.arange(new) * 2 + 1) * old // (2 * new) for old, new in zip(labels.shape, (image.height, image.width), strict=True)
            )
            labels = labels[rows[:, None], columns]
        counts = np.bincount(labels.reshape(-1), minlength=len(logits))
        there = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
        return SegmentResult(labels, tuple(ClassShare(index, self.name_of(index), counts[index] / labels.size) for index in there))

    def _boxes(self, outputs: tuple[Any, Any, Any], image: _Read, threshold: float) -> DetectResult:
        height, width = image.pixels.shape[:2]
        least = np.nextafter(np.float32(threshold), np.float32(-1))  # find_boxes keeps what is above it
        classes, sides, centre = (part[0] for part in outputs)
        found = find_boxes(classes, sides, centre, self.dims.patch, height, width, float(least), MAX_OVERLAP, MAX_BOXES)
        corners = found.corners * (np.array([image.width, image.height] * 2) / np.array([width, height] * 2))
        boxes = zip(corners.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
        return DetectResult(tuple(FoundBox(index, self.name_of(index), score, *box) for box, index, score in boxes))


def make_image_engine(weights: Weights, settings: ImageSettings, threads: int | None = None, activations: str | None = None) -> ImageEngine:
    """The native engine if there is a native module; otherwise the reference, and `dispatch` warns."""
    threads, activations = choose_threads(threads), chosen_activations(activations)
    if dispatch.native_module() is None:
        return ReferenceImageEngine(weights, settings)
    return NativeImageEngine(weights, settings, threads, activations)


def _each(images: Iterable[Image] | Image) -> Iterable[Image]:
    """One image becomes a list; an array with an axis more than an image is one of images."""
    if isinstance(images, str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray):
        return [images] if images.ndim < 3 or (images.ndim == 3 and images.shape[2] == 3) else images
    return images


def _checked(image: NDArray[Any]) -> Pixels:
    """-> (height, width, 3). Raises ConfigError for an array of another form."""
    is_grey = image.ndim == 2
    if image.dtype != np.uint8 or 0 in image.shape or not (is_grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise ConfigError(
            "an image must be an array of uint8, (height, width, 3) red, green, blue or (height, width) grey; "
            f"got {image.dtype} {image.shape}"
        )
    return np.repeat(image[..., None], 3, axis=2) if is_grey else image

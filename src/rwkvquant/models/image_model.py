"""A whole model for images in torch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import architecture
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.kernels.images import normalized
from rwkvquant.models.model import forward_of
from rwkvquant.models.source import CheckpointSource, WeightSource


class ImageModel:
    """Reads every weight at the first call that needs it, and keeps it in memory. `task`: "classify", "segment", "detect" or None.

    Images are uint8, (B, height, width, 3) red, green, blue, or (B, height, width) grey, of any size.
    """

    def __init__(self, source: WeightSource, settings: ImageSettings) -> None:
        self.arch, self.dims, self.settings = source.arch, source.dims, settings
        self._source, self._forward = source, forward_of(source.arch)
        self._blocks: dict[int, dict[str, Any]] = {}

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> ImageModel:
        """Raises ConfigError for a checkpoint of a text model."""
        if checkpoint.image is None:
            raise ConfigError(f"{checkpoint.path}: {checkpoint.architecture.title} is a text model; use TorchModel")
        return cls(CheckpointSource(checkpoint, device), checkpoint.image)

    @property
    def task(self) -> str | None:
        """What its head is for. None if it has no head, or one that is carried along only."""
        return architecture(self.arch).task_in(self._globals)

    @torch.no_grad()
    def features(self, images: NDArray[np.uint8]) -> Tensor:
        """(B, C, rows, columns): a vector for each patch."""
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or 0 in images.shape:
            raise ConfigError(
                f"images must be uint8, (count, height, width, 3) or (count, height, width); got {images.dtype} {images.shape}"
            )
        pixels = torch.from_numpy(normalized(images, self.settings.mean, self.settings.std)).to(self._device)
        x, here = self._forward.embed(self._globals, pixels, self.dims.patch, self.settings.grid)
        for layer in range(self.dims.layers):
            x = self._forward.block(self._block(layer), x, here, self.settings.post_norm)
        features: Tensor = self._forward.features(self._globals, x, here)
        return features

    @torch.no_grad()
    def classify(self, images: NDArray[np.uint8]) -> Tensor:
        """Logits (B, K). Raises ConfigError for images of another form, and for a model without this head."""
        self._require("classify")
        logits: Tensor = self._forward.classify(self._globals, self.features(images))
        return logits

    @torch.no_grad()
    def segment(self, images: NDArray[np.uint8]) -> Tensor:
        """Logits (B, K, height, width). Raises as `classify` does."""
        self._require("segment")
        logits: Tensor = self._forward.segment(self._globals, self.features(images), *images.shape[1:3])
        return logits

    @torch.no_grad()
    def detect(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]:
        """What `detect` of models/vrwkv.py gives: classes, sides and centre-ness of each patch. Raises as `classify` does."""
        self._require("detect")
        classes, sides, centre = self._forward.detect(self._globals, self.features(images))
        return classes, sides, centre

    def _require(self, task: str) -> None:
        if self.task != task:
            raise ConfigError(f"this model has no head to {task}; its head can {self.task or 'do nothing that this version knows'}")

    @cached_property
    def _globals(self) -> dict[str, Any]:
        return self._source.globals()

    @property
    def _device(self) -> torch.device:
        return next(weight.device for weight in self._globals.values() if isinstance(weight, Tensor))

    def _block(self, layer: int) -> dict[str, Any]:
        if layer not in self._blocks:
            self._blocks[layer] = self._source.block(layer)
        return self._blocks[layer]

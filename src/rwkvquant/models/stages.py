"""A model's forward in stages: embedding, one block, head. Calibration runs them one by one, and does not know what the model reads.

The module of a text architecture (models/rwkv7.py) has these three functions. For images they also need the size of the images and the
settings of the model, so `ImageStages` holds those.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol, cast

from torch import Tensor

from rwkvquant.architectures.image import ImageSettings
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.models.layers import Tap, Weights
from rwkvquant.models.model import forward_of


class Stages(Protocol):
    def embed(self, weights: Weights, rows: Tensor, /) -> Tensor:
        """Tokens (B, T), or images (B, I, height, width), normalised -> x (B, T, C)."""
        ...

    def block(self, weights: Weights, x: Tensor, state: Any, carry: Tensor | None, tap: Tap | None = None, /) -> tuple[Tensor, Any, Any]:
        """-> x, the state after the last token, and what later blocks get as `carry`; both None for images."""
        ...

    def head(self, weights: Weights, x: Tensor, tap: Tap | None = None, /) -> Any:
        """-> logits (B, T, V), or what the head of a model for images gives for its task."""
        ...


def text_stages(arch: str) -> Stages:
    """Raises ConfigError for an architecture without a torch forward."""
    return cast(Stages, forward_of(arch))


class ImageStages:
    """For images of one size. `here`: rows and columns of their patches, T = rows x columns."""

    def __init__(self, arch: str, settings: ImageSettings, patch: int, task: str | None, height: int, width: int) -> None:
        """`task`: what the head is for, None for a model whose head is not ours."""
        self._module: ModuleType = forward_of(arch)
        self._settings, self._patch, self._task, self._size = settings, patch, task, (height, width)
        self.here = -(-height // patch), -(-width // patch)

    @classmethod
    def of(cls, checkpoint: Checkpoint, height: int, width: int) -> ImageStages:
        assert checkpoint.image is not None
        task = checkpoint.architecture.task_in(checkpoint.tensors)
        return cls(checkpoint.arch, checkpoint.image, checkpoint.dims.patch, task, height, width)

    def embed(self, weights: Weights, rows: Tensor, /) -> Tensor:
        x, here = self._module.embed(weights, rows, self._patch, self._settings.grid)
        assert here == self.here, (here, self.here)
        return cast(Tensor, x)

    def block(self, weights: Weights, x: Tensor, state: Any, carry: Tensor | None, tap: Tap | None = None, /) -> tuple[Tensor, Any, Any]:
        return self._module.block(weights, x, self.here, self._settings.post_norm, tap), None, None

    def head(self, weights: Weights, x: Tensor, tap: Tap | None = None, /) -> Any:
        """Logits (B, K) to classify, (B, K, height, width) to segment, the three arrays of `detect`, or the features without a task."""
        features = self._module.features(weights, x, self.here)
        if self._task == "segment":
            return self._module.segment(weights, features, *self._size, tap)
        return features if self._task is None else getattr(self._module, self._task)(weights, features, tap)

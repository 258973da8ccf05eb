"""The definition of the forward (kernels/) with decoded weights, 4 bytes each: slow, and for small models.

The native engine is tested against it. It runs models where the native module is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rwkvquant.architectures import architecture
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.runtime.engines.image_base import Array, forward_of
from rwkvquant.runtime.weights import Weights


class ReferenceImageEngine:
    """See image_base.py. Float32 from end to end; images are read one by one, so that one has the same bits alone and among others."""

    name = "reference"
    threads = 1

    def __init__(self, weights: Weights, settings: ImageSettings) -> None:
        self._require_whole, self._settings, self._patch = weights.require_whole, settings, weights.dims.patch
        self._forward = forward_of(weights.arch)
        matrices = weights.matrices | {architecture(weights.arch).embedding.name: weights.embedding}
        self.weights: Mapping[str, Any] = weights.vectors | {name: packed.decode() for name, packed in matrices.items()}

    def features(self, pixels: Array) -> Array:
        """See image_base.py."""
        self._require_whole()
        settings = self._settings.grid, self._settings.post_norm
        return np.concatenate([self._forward.features(self.weights, image[None], self._patch, *settings) for image in pixels])

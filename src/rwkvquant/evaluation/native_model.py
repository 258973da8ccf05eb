"""The engine that ships as a model to measure: the same text, the same windows, and its own rounding.

The engine gives logits and no features, so features are logits here, and all logits of a batch of windows are in memory at once: 128 MiB,
but for a single longer window 4 bytes for each token and entry of the vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvquant.runtime.session import Model


class NativeModel:
    def __init__(self, model: Model) -> None:
        self._model = model

    def features(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) int64 -> logits (B, T, V) float32."""
        logits, _ = self._model.forward_batch(tokens.tolist(), logits="all")
        return torch.from_numpy(np.stack(logits))

    def logits(self, features: Tensor) -> Tensor:
        return features

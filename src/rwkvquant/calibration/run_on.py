"""The KL divergence that one changed matrix alone costs: the model is run on from that matrix's layer, on inputs that are kept.

    p_t, q_t   the next-token distributions of the original and of the changed model after the same tokens
    d          ln p - ln q
    KL         mean_t sum_v p_t d_t  =  mean_t sum_v p_t (exp(-d_t) - 1 + d_t)        nats per token

The second form holds because p and q add up to 1. Its terms are about d^2 / 2, never negative, so that rounding d to float32 has no
effect of first order: a KL of 1e-9 can be measured.

The original runs once. What each block read is kept, so a change in layer l costs the layers from l on and the head.

Gives up: the weights of all blocks, the inputs of all blocks and the logits of all rows are in memory. For small models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import Architecture
from rwkvquant.calibration.collect import Collector
from rwkvquant.calibration.statistics import InputStatistics
from rwkvquant.models.source import WeightSource
from rwkvquant.models.stages import Stages


class RunOn:
    """The original model on rows of tokens (rows, length)."""

    @torch.no_grad()
    def __init__(self, stages: Stages, source: WeightSource, rows: NDArray[Any], device: torch.device) -> None:
        self._stages, self._outer = stages, source.globals()
        self._blocks = [source.block(layer) for layer in range(source.dims.layers)]
        x = stages.embed(self._outer, torch.from_numpy(np.ascontiguousarray(rows)).to(device))
        self._inputs, self._carry = [x], None
        for layer, block in enumerate(self._blocks):
            x, _, carry = stages.block(block, x, None, self._carry, None)
            self._carry = carry if layer == 0 else self._carry
            self._inputs.append(x)
        self._log_p = self._log_probabilities(x)

    @torch.no_grad()
    def inputs(self, layer: int, architecture: Architecture) -> dict[str, InputStatistics]:
        """Statistics of the inputs of the layer's products, by the names of the architecture."""
        collector = Collector(architecture.product_inputs)
        self._stages.block(self._blocks[layer], self._inputs[layer], None, self._carry if layer else None, collector)
        return collector.statistics

    @torch.no_grad()
    def kl(self, layer: int, changed: Mapping[str, Tensor]) -> Tensor:
        """`changed`: matrices of the layer by key, as they are in the changed model -> (rows,) float64."""
        x, carry = self._inputs[layer], self._carry if layer else None
        for at in range(layer, len(self._blocks)):
            weights = {**self._blocks[at], **changed} if at == layer else self._blocks[at]
            x, _, made = self._stages.block(weights, x, None, carry, None)
            carry = made if at == 0 else carry
        return torch.stack([_divergence(p, q) for p, q in zip(self._log_p, self._log_probabilities(x), strict=True)])

    def _log_probabilities(self, x: Tensor) -> Tensor:
        """(rows, length, vocabulary) float32."""
        return torch.log_softmax(self._stages.head(self._outer, x, None).float(), -1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The KL of one row, (length, vocabulary) each, as a mean over its tokens."""
    d = log_p - log_q
    return ((torch.expm1(-d) + d) * log_p.exp()).sum(-1).mean(dtype=torch.float64)

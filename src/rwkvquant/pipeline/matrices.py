"""Quantise one matrix by one setting, with the quantiser that is registered for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import QTensor
from rwkvquant.quantizers import Quantizer, QuantizerOptions, quantizer_for
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.recipes.setting import Setting

SAMPLED_WEIGHTS = 1 << 16  # of each matrix that pass 1 tries, in whole blocks of rows
ROW_BLOCK = 16  # rows of a matrix do not depend on one another, except those that share a codebook


def quantize_matrix(setting: Setting, options: QuantizerOptions, W: Tensor, hessian: Hessian | None) -> QTensor:
    """W (out, in) float32; `hessian` is that of its input, and None only for settings without feedback."""
    quantised: QTensor = quantizer_for(setting.method, setting.codec)(W, hessian, setting.codec, options)
    return quantised


def rounding_errors(settings: Sequence[Setting], options: QuantizerOptions, W: Tensor) -> list[float]:
    """W (rows, cols) float32 -> sum (W - Q)^2 for every setting, each without error feedback. The settings of one method take one pass."""
    places: dict[Quantizer, list[int]] = {}
    for place, setting in enumerate(settings):
        places.setdefault(quantizer_for(setting.plain.method, setting.codec), []).append(place)
    errors = [0.0] * len(settings)
    for quantizer, where in places.items():
        for place, error in zip(where, quantizer.rounding_errors(W, [settings[i].codec for i in where], options), strict=True):
            errors[place] = error
    return errors


def sampled_rows(shape: tuple[int, ...], weights: int) -> Tensor:
    """Numbers of rows: whole blocks of 16, evenly spread, about `weights` weights, at least two blocks. All rows of a small matrix."""
    rows, cols = shape
    blocks = -(-rows // ROW_BLOCK)
    chosen = min(blocks, max(2, weights // (ROW_BLOCK * cols)))
    starts = np.linspace(0, blocks - 1, chosen).round().astype(int) * ROW_BLOCK
    return torch.cat([torch.arange(start, min(start + ROW_BLOCK, rows)) for start in starts])

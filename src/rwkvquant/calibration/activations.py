"""One activation that a tensor is multiplied with, and its distribution (RWKVQuant, arXiv:2505.03803, Figure 4: normal, with outliers).

    X  (tokens, width)     the activation of every token     z = (X - mean) / std

The histogram shows the tails well. Bins are half a standard deviation wide up to 3, and then go from one of TAILS to the next, on both
sides, as far as there are values. Each count comes with that of a normal distribution with the same mean and std.

Gives up: all values are in memory, unlike in `collect.py`: 8 rows of 512 tokens of a hidden width of 16384 are 0.3 GB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import architecture
from rwkvquant.errors import CalibrationError
from rwkvquant.models import Stages, WeightSource, text_stages

CORE = tuple(step / 2 for step in range(7))  # 0 to 3 standard deviations
TAILS = (4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0)
PERCENTILES = (0.1, 1.0, 5.0, 50.0, 95.0, 99.0, 99.9)


@torch.no_grad()
def collect_activation(
    source: WeightSource,
    rows: NDArray[Any],
    layer: int | None,
    name: str,
    index: int | None = None,
    batch: int = 8,
    stages: Stages | None = None,
) -> NDArray[np.float32]:
    """The activation that models/ taps as `name` in a layer, or in the head for layer None -> (rows, length, width).

    `rows`: tokens (rows, length); every row starts from the state before the first token. Or images, with `stages` for their size; then
    patches are tokens. `index` chooses a slice of a sliced activation. Axes after the second, such as heads, become one. One block's
    weights and all hidden states are in memory. Raises CalibrationError for values that are not finite.
    """
    model, outer = stages or text_stages(source.arch), source.globals()
    batches = [torch.from_numpy(rows[start : start + batch]) for start in range(0, len(rows), batch)]
    hidden: list[tuple[Tensor, Tensor | None]] = [(model.embed(outer, part), None) for part in batches]
    batches_heard: list[Tensor] = []

    def tap(tapped: str, x: Tensor) -> None:
        if tapped == name:
            x = x if index is None else x[index]
            # The heads of a model for images get one row an image, or rows and columns of patches.
            batches_heard.append((x.flatten(2) if layer is not None else x.reshape(len(x), -1, x.shape[-1])).clone())

    for at in range(source.dims.layers if layer is None else layer + 1):
        weights = source.block(at)
        for i, (x, carry) in enumerate(hidden):
            x, _, carry = model.block(weights, x, None, carry, tap if at == layer else None)
            hidden[i] = x, carry
    if layer is None:
        large = [spec.name for spec in architecture(source.arch).heads if not spec.optional]
        one_row = {**outer, **{name: outer[name][:1] for name in large}}  # only the input is needed, no logits
        for x, _ in hidden:
            model.head(one_row, x, tap)
    assert len(batches_heard) == len(hidden), f"{name} is tapped {len(batches_heard)} times in layer {layer} for {len(hidden)} batches"
    values = torch.cat(batches_heard).float()
    if not bool(torch.isfinite(values).all()):
        where = "after the last block" if layer is None else f"in block {layer}"
        raise CalibrationError(f"the activation {name} {where} holds values that are not finite: weights before it are far too large")
    return values.numpy()


@dataclass(frozen=True)
class Distribution:
    """The distribution of all values of an activation, and the mean squares of its channels.

    edges (bins + 1,), counts (bins,) as in np.histogram. normal (bins,): the counts of a normal distribution of this mean and std; its
    first and last bins have no outer end. kurtosis is 3 for a normal distribution, and NaN if all values are the same.
    clip_low, clip_high: the bounds to which the reading "paper" of the element-wise weights clips, as means over rows.
    clip_share: the share of values that are clipped. mean_square (width,).
    """

    count: int
    mean: float
    std: float
    low: float
    high: float
    zeros: float
    kurtosis: float
    percentiles: dict[float, float]
    clip_low: float
    clip_high: float
    clip_share: float
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    normal: NDArray[np.float64]
    mean_square: NDArray[np.float64]

    def largest_channels(self, count: int) -> list[int]:
        """The channels with the largest mean squares, the largest first; of equals the lower one first."""
        return [int(channel) for channel in np.argsort(-self.mean_square, kind="stable")[:count]]


def distribution(X: NDArray[np.float32], clip_percentile: float) -> Distribution:
    """X (rows, length, width), finite -> its distribution; every row is clipped to its own percentiles 100 - p and p. Sums in float64."""
    values = X.astype(np.float64)
    least, most = float(values.min()), float(values.max())
    mean, std = float(values.mean()), float(values.std()) if least < most else 0.0
    kurtosis = float(np.mean(((values - mean) / std) ** 4)) if std > 0 else float("nan")
    bounds = np.percentile(values.reshape(len(values), -1), [100 - clip_percentile, clip_percentile], axis=1)  # (2, rows)
    low, high = bounds[:, :, None, None]
    edges = _edges(values, mean, std)
    return Distribution(
        count=values.size,
        mean=mean,
        std=std,
        low=least,
        high=most,
        zeros=float(np.mean(values == 0)),
        kurtosis=kurtosis,
        percentiles=dict(zip(PERCENTILES, np.percentile(values, PERCENTILES).tolist(), strict=True)),
        clip_low=float(bounds[0].mean()),
        clip_high=float(bounds[1].mean()),
        clip_share=float(np.mean((values < low) | (values > high))),
        edges=edges,
        counts=np.histogram(values, edges)[0].astype(np.int64),
        normal=values.size * _normal_shares(edges, mean, std),
        mean_square=np.square(values).reshape(-1, values.shape[-1]).mean(0),
    )


def _edges(values: NDArray[np.float64], mean: float, std: float) -> NDArray[np.float64]:
    """(bins + 1,) ascending, from the least value to the largest, with the same steps on both sides of the mean; one bin where std is 0."""
    if std == 0:
        return np.array([mean - 0.5, mean + 0.5])
    half = np.array((*CORE, *TAILS))
    edges = mean + std * np.concatenate([-half[:0:-1], half])
    low, high = values.min(), values.max()
    return np.array([low, *edges[(edges > low) & (edges < high)], high])


def _normal_shares(edges: NDArray[np.float64], mean: float, std: float) -> NDArray[np.float64]:
    """(bins,) with the sum 1; the first and the last bin have no outer end. The mean is never inside a bin."""
    if std == 0:
        return np.ones(1)
    beyond = [0.0, *(math.erfc(abs(edge - mean) / (std * math.sqrt(2))) / 2 for edge in edges[1:-1].tolist()), 0.0]
    return np.abs(np.diff(beyond))

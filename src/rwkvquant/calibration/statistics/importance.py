"""The importance of each element of a vector in an element-wise product (RWKVQuant, arXiv:2505.03803, section 3.3, Eq. 19).

    mu  (n,)  the vector      X  (tokens, n)  what it is multiplied with      w  (n,)  importance of each element

The loss || X o mu - X o Q(mu) ||^2 is a weighted 1-D k-means of mu, and its weights follow from it: w_i = E[X_i^2]. That is the
reading "mean_square". The paper does otherwise: it averages the calibration samples to one X of the shape of mu, and squares that.
All three readings take one sample (one row of calibration text) at a time and average over samples:

    mean_square     w = average of mean_t X^2                            exactly the weights of Eq. (19)
    paper           w = (average of mean_t clip(X))^2                    clipped to percentiles of the sample's values
    authors         w = 1000 * average of |mean_t X|                     the code: no clip, no square

Gives up: "paper" and "authors" average X with its sign before they square it. They see the mean of X, not its size. For
the token shift X_t = x_(t-1) - x_t the mean is a telescoping sum, (x_0 - x_T) / T, which depends on almost nothing but the last
token. They are here to compare with.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

READINGS = ("mean_square", "paper", "authors")
PERCENTILE = 99.0  # the paper gives no number
AUTHORS_FACTOR = 1000.0  # so that the weights of a cluster rarely sum to less than 1, where the authors' means are wrong

Array = Tensor | NDArray[np.floating]


class Importance:
    """w of one vector, from the activations it is multiplied with, sample by sample. Running sums in float64."""

    def __init__(self, width: int, reading: str = "mean_square", percentile: float = PERCENTILE) -> None:
        """`percentile` (50..100) is for "paper" only: values outside of the sample's percentiles 100 - p .. p are clipped to them."""
        assert reading in READINGS, reading
        assert 50 <= percentile <= 100, percentile
        self.reading, self.percentile, self.samples = reading, percentile, 0
        self._sum = np.zeros(width)

    def add(self, X: Array) -> None:
        """X (tokens, width): one sample. All samples count equally, whatever their length."""
        values = torch.as_tensor(X).double().cpu().numpy()
        if self.reading == "mean_square":
            integrated = (values**2).mean(0)
        elif self.reading == "paper":
            low, high = np.percentile(values, [100 - self.percentile, self.percentile])
            integrated = values.clip(low, high).mean(0)
        else:
            integrated = np.abs(values.mean(0))
        self._sum += integrated
        self.samples += 1

    @property
    def weights(self) -> NDArray[np.float64]:
        """w (width,), none negative."""
        assert self.samples > 0, "importance of no samples"
        average = self._sum / self.samples
        if self.reading == "paper":
            return average**2
        return AUTHORS_FACTOR * average if self.reading == "authors" else average

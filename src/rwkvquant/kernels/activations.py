"""Activations in int8, for all quantised products.

    x       (n,)         float32      one activation vector
    xq      (padded n,)  int8         rint(x / xscale), -127..127; padding to a multiple of the group is 0
    xscale  (groups,)    float32      absmax of the group / 127

Symmetric, so that a product needs no correction for a zero point; and never -128, so that -x gives -xq.
Gives up: in a group with one large value, few steps are left for the others. A group of 64 columns is one tile wide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ACTIVATION_GROUP = 64
LARGEST = np.float32(127)


def quantize_activations(x: NDArray[np.float32], group: int = ACTIVATION_GROUP) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(n,) -> xq (padded n,) int8 and xscale (groups,) float32; halves round to even.

    A NaN or an infinity makes its group's scale NaN or infinite too, so that it is seen in the product.
    """
    groups = -(-len(x) // group)
    padded = np.zeros((groups, group), np.float32)
    padded.reshape(-1)[: len(x)] = x
    xscale = np.abs(padded).max(axis=1, initial=0) / LARGEST
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 in a group of zeros, and values that are not finite
        steps = np.rint(padded / xscale[:, None])
    # A subnormal scale is too coarse for its own absmax: x / xscale can reach 190.
    steps = np.clip(np.nan_to_num(steps, nan=0.0, posinf=0.0, neginf=0.0), -LARGEST, LARGEST)
    return steps.astype(np.int8).reshape(-1), xscale

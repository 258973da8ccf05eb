"""Norms that follow a mix make up for earlier errors, where products cannot.

With `post_norm` a block adds gamma ln(mix) to the residual stream x. So weight and bias of the norm can bring the stream nearer to that of
the full-precision model x':

    after this mix the stream should be     x' + gamma' ln'(mix')   =   x + gamma (a ln(mix) + b)        for each channel

a and b are found by least squares (statistics/channels.py) and multiplied into weight and bias: no bits, and no work at run time. It is
what corrected products do in other models (quantizers/shared/correction.py), with two numbers for each channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.calibration.collect import Block, HiddenStates
from rwkvquant.calibration.statistics import ChannelFit
from rwkvquant.models.layers import Weights


@torch.no_grad()
def fit_norm(
    block: Block,
    quantised: Weights,
    original: Weights,
    norm: str,
    scale: str,
    streams: tuple[HiddenStates, HiddenStates],
    batch: int,
    rows: range,
    share: float,
) -> dict[str, Tensor]:
    """New weight and bias of `norm`, by key. `scale`: the name of gamma. `streams`: the inputs of the block, quantised and full precision.

    The block runs over all of `rows`; earlier norms should be fitted by then. A channel whose gamma is 0 stays as it is.
    """
    weight, bias = quantised[f"{norm}.weight"], quantised[f"{norm}.bias"]
    gamma = quantised.get(scale, torch.ones_like(weight))
    divided = torch.where(gamma != 0, gamma, torch.inf)
    sums = ChannelFit(len(weight), weight.device)
    for chosen in streams[0].batches(batch, rows):
        heard: list[dict[str, Tensor]] = []
        for weights, stream in zip((quantised, original), streams, strict=True):
            heard.append({})
            block(weights, stream.read(chosen)[0], None, None, heard[-1].__setitem__)
        missing = heard[1][f"{norm}.sum"] - heard[0][f"{norm}.sum"]
        sums.add(heard[0][f"{norm}.out"], missing / divided)
    a, b = sums.line(share)
    return {f"{norm}.weight": (a * weight).float(), f"{norm}.bias": (a * bias + b).float()}

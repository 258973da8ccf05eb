"""Descent on the codes of a grid: the whole step nearest to the minimum of a parabola. shared/descent.py has the mathematics."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import UniformTensor
from rwkvquant.quantizers.shared.columns import GridColumns, block_step
from rwkvquant.quantizers.shared.descent import CodeSteps
from rwkvquant.quantizers.shared.residual import Change


def columns(q: UniformTensor, W: Tensor) -> GridColumns:
    return GridColumns(torch.from_numpy(q.group_scales()), torch.from_numpy(q.group_zeros()), q.bits)


def chooser(q: UniformTensor, W: Tensor, H: Tensor, codes: Tensor) -> Change:
    scales = torch.from_numpy(q.group_scales()).to(W)

    def choose(columns: slice, G: Tensor) -> Tensor:
        j = columns.start
        h, code, scale = H[j, j], codes[j], scales[:, j // q.group_size]
        new = (code + (G[0] / (h * scale)).nan_to_num(0.0, 0.0, 0.0)).round().clamp(0, 2**q.bits - 1)  # h is 0 in a dead column
        x = scale * (new - code)
        gains = h * x.square() < 2 * G[0] * x
        codes[j] = torch.where(gains, new.long(), code)
        return torch.where(gains, x, 0.0)[None]

    return choose


STEPS = CodeSteps(chooser, 1, lambda q, W: block_step(columns(q, W), q.group_size))

"""The methods of uniform grids, as the registry calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.drift import own_output
from rwkvquant.quantizers.shared.factor import InverseFactor
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.uniform.gptaq import as_gptq
from rwkvquant.quantizers.uniform.gptq import gptq_with
from rwkvquant.quantizers.uniform.qronos import first_column_corrected
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.quantizers.uniform.update import refine_grid

CHUNK_WEIGHTS = 1 << 24  # in one run of error feedback


def quantize_rtn(W: Tensor, hessian: Hessian | None, grid: GridConfig, options: QuantizerOptions) -> UniformTensor:
    """Without a Hessian, the "hessian" clip search becomes the "weight" search, which weights all columns equally."""
    clip_search = "weight" if options.clip_search == "hessian" and hessian is None else options.clip_search
    return rtn(W, grid, clip_search, None if hessian is None else hessian.diagonal)


def quantize_gptq(W: Tensor, hessian: Hessian, grid: GridConfig, options: QuantizerOptions) -> UniformTensor:
    """Rows are independent of each other, and a head has many of them: CHUNK_WEIGHTS at a time."""
    factor, parts = hessian.factor(options), []
    for part in W.split(max(1, CHUNK_WEIGHTS // W.shape[1])):
        q = gptq_with(factor, part, grid, clip_search=options.clip_search, static_groups=options.act_order)
        parts.append(refine_grid(part, hessian.working, q) if options.tuned and options.refined else q)
    return join_rows(parts)


def quantize_gptaq(W: Tensor, hessian: Hessian, grid: GridConfig, options: QuantizerOptions) -> UniformTensor:
    """Without a drift of the input this is GPTQ with static groups."""
    factor = hessian.factor(options)
    feedback, change = (factor, None) if hessian.drift is None else as_gptq(factor, hessian.drift.to(W))
    return _with_drift(W, hessian, grid, options, feedback, lambda part: part if change is None else change(part))


def quantize_qronos(W: Tensor, hessian: Hessian, grid: GridConfig, options: QuantizerOptions) -> UniformTensor:
    """Without a drift of the input this is GPTQ with static groups."""
    factor, drift = hessian.factor(options), hessian.drift
    aim = (lambda part: part) if drift is None else (lambda part: first_column_corrected(factor, part, drift.to(W)))
    return _with_drift(W, hessian, grid, options, factor, aim)


def _with_drift(
    W: Tensor, hessian: Hessian, grid: GridConfig, options: QuantizerOptions, factor: InverseFactor, aim: Callable[[Tensor], Tensor]
) -> UniformTensor:
    """GPTQ of `aim(W)` on the grids of W; then, in the tuned style, descent to less loss of the same objective."""
    parts = []
    for part in W.split(max(1, CHUNK_WEIGHTS // W.shape[1])):
        q = gptq_with(factor, aim(part), grid, clip_search=options.clip_search, static_groups=True, grids_of=part)
        if options.tuned and options.refined:
            target = part if hessian.drift is None else own_output(hessian.factor(options), part, hessian.drift)
            q = refine_grid(target, hessian.working, q)
        parts.append(q)
    return join_rows(parts)


def join_rows(parts: list[UniformTensor]) -> UniformTensor:
    """The rows of all parts, one below the other."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    arrays: dict[str, Any] = {name: joined(name) for name in ("codes", "zeros", "scales", "scale_codes", "row_scale")}
    return replace(parts[0], **arrays)

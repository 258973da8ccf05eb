"""The methods of uniform grids, as the registry calls them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.uniform.gptq import gptq_with
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


def join_rows(parts: list[UniformTensor]) -> UniformTensor:
    """The rows of all parts, one below the other."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    arrays: dict[str, Any] = {name: joined(name) for name in ("codes", "zeros", "scales", "scale_codes", "row_scale")}
    return replace(parts[0], **arrays)

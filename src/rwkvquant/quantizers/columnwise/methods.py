"""The methods of the codecs columnwise and sections, as the registry calls them. docs/methods/columnwise.md derives and measures them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rwkvquant.codecs import ColumnwiseConfig, ColumnwiseTensor, SectionsConfig, SectionsTensor
from rwkvquant.kernels.gemv_sections import WIDTHS
from rwkvquant.quantizers.columnwise.scales import root, row_scales
from rwkvquant.quantizers.columnwise.state import State, as_half
from rwkvquant.quantizers.columnwise.tables import fit_table
from rwkvquant.quantizers.columnwise.update import update
from rwkvquant.quantizers.columnwise.walk import walk
from rwkvquant.quantizers.columnwise.widths import choose_widths
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.balance import balance
from rwkvquant.quantizers.shared.factor import InverseFactor
from rwkvquant.quantizers.shared.hessian import Hessian

Config = TypeVar("Config")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Form(Generic[Config, Result]):
    """What differs between the codecs. widths: the cost of each column (cols,), parameters -> its width; tensor: the logical tensor."""

    widths: Callable[[Tensor, Config], Tensor]
    tensor: Callable[[State], Result]


def quantize_kmeans(form: Form[Config, Result], W: Tensor, hessian: Hessian | None, config: Config, options: QuantizerOptions) -> Result:
    """Nearest codes. Weighted with the Hessian's diagonal if there is one and the style is "tuned"."""
    importance = hessian.diagonal.to(W) if hessian is not None and options.tuned else torch.ones_like(W[0])
    return form.tensor(_choose(form, W, importance, None, config))


def quantize_gptvq(form: Form[Config, Result], W: Tensor, hessian: Hessian, config: Config, options: QuantizerOptions) -> Result:
    """With error feedback. The paper has no such codec, so in its style there is only no `update`.

    Columns that are far out of line are scaled to the size of the others first, and their column scales back at the end: damping is a share
    of the mean of diag(H), and would be larger than all but their inputs (quantizers/shared/balance.py).
    """
    exponents = balance([W.cpu().numpy()]) if options.tuned else None
    if exponents is None:
        return form.tensor(_with_feedback(form, W, hessian, config, options))
    power = torch.exp2(torch.from_numpy(exponents).to(W))
    state = _with_feedback(form, W * power, hessian.divided(exponents), config, options)
    state.col_scale = as_half(state.col_scale / power)
    return form.tensor(state)


def _with_feedback(form: Form[Config, Result], W: Tensor, hessian: Hessian, config: Config, options: QuantizerOptions) -> State:
    factor = hessian.factor(options)
    alone = torch.empty_like(factor.diagonal)  # the loss of an error of 1 in a column, after all later columns made up for it
    alone[factor.order] = factor.U.diagonal().square().reciprocal()
    state = _choose(form, W, alone, factor, config)
    if options.tuned and options.refined:
        update(W, hessian.working, state, options.damping)
    return state


def _choose(form: Form[Config, Result], W: Tensor, importance: Tensor, factor: InverseFactor | None, config: Config) -> State:
    """Scales, widths, tables and codes. All but row scales twice: the second time for the weights as the first time has corrected them."""
    rounded = W.T.contiguous()  # (cols, rows)
    none = torch.zeros_like(rounded[:, 0])
    codes = torch.zeros(rounded.shape, dtype=torch.uint8, device=W.device)
    state = State(none.long(), {}, row_scales(W, importance), none.clone(), codes)
    for _ in range(2):
        state.widths = form.widths(importance * rounded.square().sum(1), config)
        _fit(rounded, importance, state)
        rounded = walk(W, state, factor)
    return state


def _fit(rounded: Tensor, importance: Tensor, state: State) -> None:
    """Tables, and column scales to begin with, for the weights (cols, rows) that are to be rounded."""
    x = rounded / state.row_scale
    size = root(x.square().mean(1))
    for width in WIDTHS:
        chosen = state.widths == width
        if bool(chosen.any()):
            p = state.row_scale.square() * (importance * size.square())[chosen, None]
            state.tables[width], step = fit_table(x[chosen] / size[chosen, None], p, width)
            state.col_scale[chosen] = as_half(size[chosen] * step)


def _one_width(cost: Tensor, config: ColumnwiseConfig) -> Tensor:
    return torch.full_like(cost, config.bits, dtype=torch.int64)


def _several_widths(cost: Tensor, config: SectionsConfig) -> Tensor:
    return choose_widths(cost, config.width_sum(len(cost)))


COLUMNWISE: Form[ColumnwiseConfig, ColumnwiseTensor] = Form(_one_width, State.columnwise)
SECTIONS: Form[SectionsConfig, SectionsTensor] = Form(_several_widths, State.sections)


def columnwise_kmeans(W: Tensor, hessian: Hessian | None, config: ColumnwiseConfig, options: QuantizerOptions) -> ColumnwiseTensor:
    return quantize_kmeans(COLUMNWISE, W, hessian, config, options)


def columnwise_gptvq(W: Tensor, hessian: Hessian, config: ColumnwiseConfig, options: QuantizerOptions) -> ColumnwiseTensor:
    return quantize_gptvq(COLUMNWISE, W, hessian, config, options)


def sections_kmeans(W: Tensor, hessian: Hessian | None, config: SectionsConfig, options: QuantizerOptions) -> SectionsTensor:
    return quantize_kmeans(SECTIONS, W, hessian, config, options)


def sections_gptvq(W: Tensor, hessian: Hessian, config: SectionsConfig, options: QuantizerOptions) -> SectionsTensor:
    return quantize_gptvq(SECTIONS, W, hessian, config, options)

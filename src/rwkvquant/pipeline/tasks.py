"""The tasks that an executor gets: matrices that share an input, to be quantised, as plain data.

A task holds everything that its result depends on, and nothing of a checkpoint or a file: W, statistics of the input, settings and
options. `perform` is a pure function. Matrices that share an input share the factor of its Hessian, so they are one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rwkvquant.codecs import QTensor
from rwkvquant.errors import CheckpointError
from rwkvquant.pipeline.matrices import quantize_matrix, sampled_rows
from rwkvquant.pipeline.transforms import Change, through
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.shared.correction import balanced_target
from rwkvquant.quantizers.shared.factor import is_finite
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_error, hessian_loss
from rwkvquant.quantizers.shared.scaling import best_scale
from rwkvquant.recipes import Setting
from rwkvquant.transforms import NONE, Applied
from rwkvquant.transforms.column_scale import COLUMN_SCALE

TRIED_FIRST = 1 << 20  # weights of a large matrix that are rounded first, to see whether error feedback is clearly better,
CLEARLY = 1.25  # by so many times less loss
ROUNDS = 4  # products of all rows with the Hessian: 2 for error feedback alone, up to 8 for codebooks (docs/methods/big_checkpoints.md)


@dataclass(frozen=True)
class Matrix:
    """W (out, in) float32. cross_moment (out, in) float64, or None: earlier errors that it corrects (correction.py).

    of_rows (groups, in, in), or None: second moments of its input for groups of its rows (guides.py).
    """

    name: str
    W: Tensor
    setting: Setting
    cross_moment: Tensor | None = None
    of_rows: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """H (in, in) float64 of the input on the text that quantisers see, H_kept_out the same on text kept out; None if there is no text.

    D (in, in): the drift of the input (quantizers/shared/drift.py), or None; quantisers get `correction` times it.
    W, H, D and cross moments are those of the input itself; the results are for the input after `transform`.
    """

    matrices: tuple[Matrix, ...]
    options: QuantizerOptions
    correction: float = 0.0
    H: Tensor | None = None
    H_kept_out: Tensor | None = None
    transform: Applied = NONE
    D: Tensor | None = None

    @property
    def name(self) -> str:
        return list_of_names([matrix.name for matrix in self.matrices])

    @property
    def cost(self) -> float:
        """Multiply-adds, about: each row against the Hessian some times, what else its weights take, and the factor of the Hessian."""
        cols = self.matrices[0].W.shape[1]
        products = 0 if self.H is None else ROUNDS * cols
        weights = sum(matrix.W.numel() * (products + matrix.setting.work) for matrix in self.matrices)
        return float(weights + (0 if self.H is None else cols**3))

    def perform(self) -> tuple[Done, ...]:
        """Raises CheckpointError for an input that overflows."""
        return perform(self)


@dataclass(frozen=True)
class Done:
    """A quantised matrix, the setting that was used in the end, and its error: on the text, or in the weights if there is none."""

    name: str
    quantised: QTensor
    setting: Setting
    error: float
    fell_back: bool = False
    transform: Applied = NONE  # of its input


def perform(task: Task) -> tuple[Done, ...]:
    """Raises CheckpointError for an input that overflows."""
    task = _transformed(_fitted(task))
    drift = None if task.D is None else task.correction * task.D
    hessian = None if task.H is None else Hessian(task.H, task.matrices[0].W.dtype, drift)
    return tuple(_quantise(matrix, hessian and hessian.for_matrix(matrix.of_rows), task) for matrix in task.matrices)


def _fitted(task: Task) -> Task:
    """The same task with the scale that suits its weights and its input, where its transform is one that is fitted."""
    if not task.transform.transform.fitted:
        return task
    assert task.H is not None, "a transform that is fitted needs the statistics of the input"
    if not is_finite(task.H):
        raise CheckpointError(
            f"the input of {task.matrices[0].name} overflows float32 on the calibration text; try another method than awq"
        )

    def rounded(number: int, W: Tensor, H: Tensor) -> Tensor:
        quantised = quantize_matrix(task.matrices[number].setting.plain, task.options, W, Hessian(H, W.dtype))
        return torch.from_numpy(quantised.decode()).to(W)

    scale = best_scale([matrix.W for matrix in task.matrices], task.H, rounded)
    scale *= task.transform.arrays["scale"]  # what it begins with: 1, or a power of two that suits what makes the input
    return replace(task, transform=replace(COLUMN_SCALE.of(scale), folded=task.transform.folded))


def _transformed(task: Task) -> Task:
    """The same task for the transformed input: W T^-1, T H T^T, T D T^T, and cross moments (out, in), sums over inputs, times T^T."""
    T = task.transform
    if T.name == "none":
        return task

    def maybe(change: Change, values: Tensor | None) -> Tensor | None:
        return None if values is None else through(change, values)

    def turned(each: Matrix) -> Matrix:
        of_rows = None if each.of_rows is None else torch.stack([through(T.hessian, H) for H in each.of_rows])
        return replace(each, W=through(T.weights, each.W), cross_moment=maybe(T.activations, each.cross_moment), of_rows=of_rows)

    matrices = tuple(map(turned, task.matrices))
    H, H_kept_out, D = (maybe(T.hessian, each) for each in (task.H, task.H_kept_out, task.D))
    return replace(task, matrices=matrices, H=H, H_kept_out=H_kept_out, D=D)


def _quantise(matrix: Matrix, hessian: Hessian | None, task: Task) -> Done:
    W, setting = matrix.W, matrix.setting
    if setting.feedback:
        assert hessian is not None, f"no statistics of the input of {matrix.name}"
        if not is_finite(hessian.H):
            raise CheckpointError(
                f"the input of {matrix.name} overflows float32 on the calibration text: some weight before it is far too large. "
                "Is the checkpoint damaged? Try --method rtn to quantise it anyway"
            )
    target = W
    if hessian is not None and matrix.cross_moment is not None:
        target = balanced_target(W, hessian, matrix.cross_moment, task.correction, task.options)
    quantised, fell_back = quantize_matrix(setting, task.options, target, hessian), False
    if setting.feedback and hessian is not None and task.H_kept_out is not None:
        plain = _better_plain(W, setting.plain, task.options, hessian, quantised, task.H_kept_out.to(W.dtype))
        if plain is not None:
            quantised, setting, fell_back = plain, setting.plain, True
    error = plain_error(W, quantised) if hessian is None else hessian_error(W, quantised.decode(), hessian.working)
    return Done(matrix.name, quantised, setting, error, fell_back, task.transform)


def _better_plain(
    W: Tensor, plain: Setting, options: QuantizerOptions, hessian: Hessian, quantised: QTensor, H_kept_out: Tensor
) -> QTensor | None:
    """W without error feedback, if that loses less than `quantised` on the text kept out; else None, perhaps after some rows only."""
    decoded = torch.from_numpy(quantised.decode()).to(W.device)

    def losses(rows: Any) -> tuple[QTensor, float, float]:
        rounded = quantize_matrix(plain, options, W[rows], hessian)
        return rounded, hessian_loss(W[rows], rounded.decode(), H_kept_out), hessian_loss(W[rows], decoded[rows], H_kept_out)

    if W.numel() > TRIED_FIRST:
        _, of_plain, of_quantised = losses(sampled_rows(W.shape, TRIED_FIRST))
        if of_plain > CLEARLY * of_quantised:
            return None
    rounded, of_plain, of_quantised = losses(slice(None))
    return rounded if of_plain < of_quantised else None


def list_of_names(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def plain_error(W: Tensor, quantised: QTensor) -> float:
    """|W - Q|^2 / |W|^2. Differences in float32, as the embedding is large; sums in float64."""
    decoded = torch.from_numpy(quantised.decode()).to(W.device)
    energy = float(W.square().sum(dtype=torch.float64))
    return float((W - decoded).square_().sum(dtype=torch.float64)) / energy if energy else 0.0

"""The matrices of a checkpoint that would be quantised, and intervals of what is measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import QUANTIZED_ROLES, Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.evaluation.bootstrap import RESAMPLES, interval
from rwkvquant.lab.studies.study import Value
from rwkvquant.selection.proxy import saved_in

if TYPE_CHECKING:
    from rwkvquant.lab.spec import LabModel


@dataclass(frozen=True)
class Matrix:
    """`dtype`: the type in which the weights were saved (saved_in). W (out, in) float32."""

    name: str
    projection: bool
    dtype: str
    W: NDArray[np.float32]


def matrices(model: LabModel) -> Iterator[Matrix]:
    """Projections and LoRA factors, one at a time."""
    checkpoint = open_checkpoint(model.checkpoint)
    for matrix in checkpoint.logical_matrices():
        if matrix.spec.role in QUANTIZED_ROLES:
            W = checkpoint.read_matrix(matrix.name)
            dtype = saved_in(W, checkpoint.tensors[matrix.source].dtype)
            yield Matrix(matrix.name, matrix.spec.role is Role.PROJECTION, dtype, W)


def of_checkpoint(model: LabModel) -> dict[str, Any]:
    """The part of a question that is the model."""
    return open_checkpoint(model.checkpoint).made_from()


def rounded(value: float) -> float:
    """As many digits as a cell keeps."""
    return float(f"{value:.9g}")


def mean(values: Sequence[float]) -> Value:
    """With a 95 % interval of a bootstrap over matrices."""
    own = np.array(values)
    (draws,) = _draws(own)
    return Value(float(own.mean()), interval(draws, len(own)))


def ratio(values: Sequence[float], others: Sequence[float]) -> Value:
    """The mean over the mean of another model's, with an interval of a bootstrap over the matrices of both."""
    a, b = _draws(np.array(values), np.array(others))
    return Value(float(np.mean(values) / np.mean(others)), interval(a / b, len(values)))


def difference(values: Sequence[float], others: Sequence[float]) -> Value:
    """Of the means, in the same way."""
    a, b = _draws(np.array(values), np.array(others))
    return Value(float(np.mean(values) - np.mean(others)), interval(a - b, len(values)))


def _draws(*groups: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Of each group, independently: the means of RESAMPLES draws, (RESAMPLES,)."""
    random = np.random.default_rng(0)
    return [values[random.integers(0, len(values), (RESAMPLES, len(values)))].mean(1) for values in groups]

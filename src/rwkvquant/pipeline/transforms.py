"""What is done to the input of each matrix before it is quantised: a scale of channels that are far out, and the recipe's transform."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import QUANTIZED_ROLES, Role, TensorSpec
from rwkvquant.checkpoints import Checkpoint, LogicalMatrix
from rwkvquant.codecs import codec_of
from rwkvquant.quantizers.shared.balance import balance
from rwkvquant.recipes import Recipe, Setting
from rwkvquant.transforms import NONE, Applied, transform_named
from rwkvquant.transforms.column_power import COLUMN_POWER
from rwkvquant.transforms.column_power_hadamard import COLUMN_POWER_HADAMARD
from rwkvquant.transforms.column_scale import COLUMN_SCALE

FINER = 2.0**-4  # scales of rows in grids of 6 bits are subnormal in float16, and would lose digits when they are multiplied

Transforms = Mapping[str, Applied]
Change = Callable[[NDArray[Any]], NDArray[Any]]


class Named(Protocol):
    """What has a name and a description, such as a tensor of a plan."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> TensorSpec: ...


def transforms_of(checkpoint: Checkpoint, recipe: Recipe) -> Transforms:
    """By logical name, for matrices whose input is changed; settings that take no transform are not known yet (`for_setting`).

    The recipe's own transform is for projections and LoRA factors. The scales of a balanced recipe are for the head too; it reads every
    matrix once for them.
    """
    matrices = [matrix for matrix in checkpoint.logical_matrices() if matrix.spec.role in (*QUANTIZED_ROLES, Role.HEAD)]
    named = transform_named(recipe.transform_for(checkpoint.architecture.modality))
    found: dict[str, Applied] = {}
    if named is not NONE.transform:
        inside = {matrix.name for matrix, _ in rotated_inside(checkpoint, recipe)}
        found |= {
            each.name: _to_be_folded(named.make(each.shape[1], recipe.seed), checkpoint, each)
            if recipe.folded and _can_be_folded(checkpoint, recipe, each)
            else named.make(each.shape[1], recipe.seed)
            for each in matrices
            if each.spec.role in QUANTIZED_ROLES and each.name not in inside
        }
    if recipe.balanced:
        found |= _scaled(checkpoint, matrices, found, recipe.seed)
    return found


def rotated_inside(checkpoint: Checkpoint, recipe: Recipe) -> Iterator[tuple[LogicalMatrix, tuple[str, ...]]]:
    """Matrices whose rotation becomes part of other matrices, with the names of those (folding.py)."""
    if not (recipe.folded and transform_named(recipe.transform).mixes):
        return
    architecture = checkpoint.architecture
    for matrix in checkpoint.logical_matrices():
        producer = architecture.producers.get(matrix.spec.input or "")
        if producer is not None and producer.mixes and matrix.layer is not None:
            yield matrix, tuple(architecture.full_name(matrix.layer, key) for key in producer.tensors)


def _to_be_folded(transform: Applied, checkpoint: Checkpoint, matrix: LogicalMatrix) -> Applied:
    """The transform, marked. A matrix that makes the input gets scales of rows that are larger by a power of two, see FINER."""
    architecture = checkpoint.architecture
    producers = [architecture.by_key[key] for key in architecture.producers[matrix.spec.input or ""].tensors]
    if any(spec.role in QUANTIZED_ROLES for spec in producers):
        transform = COLUMN_SCALE.of(np.full(matrix.shape[1], FINER, np.float16))
    return replace(transform, folded=True)


def _can_be_folded(checkpoint: Checkpoint, recipe: Recipe, matrix: LogicalMatrix) -> bool:
    """Whether the transform of its input can become part of the tensors that make the input. Each of them may have any candidate."""
    producer = checkpoint.architecture.producers.get(input_name(matrix) or "")
    if producer is None or matrix.layer is None or transform_named(recipe.transform).mixes:
        return False
    there = all(checkpoint.architecture.full_name(matrix.layer, key) in checkpoint.tensors for key in producer.tensors)
    return there and all(codec_of(setting.codec).scales_rows for setting in (*recipe.candidates, *recipe.own_candidates))


def _scaled(checkpoint: Checkpoint, matrices: Sequence[LogicalMatrix], rotated: Transforms, seed: int) -> dict[str, Applied]:
    """Transforms of those matrices whose input has channels that are far out: a scale, and then the rotation, for those in `rotated`."""
    by_input: dict[tuple[int | None, str], list[LogicalMatrix]] = {}
    for each in matrices:
        by_input.setdefault((each.layer, input_name(each) or each.name), []).append(each)
    found: dict[str, Applied] = {}
    for products in by_input.values():
        exponents = balance(checkpoint.read_matrix(each.name) for each in products)
        if exponents is not None:
            scale, both = COLUMN_POWER.of(exponents), COLUMN_POWER_HADAMARD.of(exponents, seed)
            found |= {each.name: both if each.name in rotated else scale for each in products}
    return found


def input_name(matrix: Named) -> str | None:
    """The activation that feeds a product. Each slice of a sliced tensor has its own."""
    if matrix.spec.input is None or not matrix.spec.slices:
        return matrix.spec.input
    return f"{matrix.spec.input}.{matrix.name.rpartition('.')[2]}"


def for_setting(transform: Applied, setting: Setting | None) -> Applied:
    """The transform, or none: matrices that stay in 16 bits have none, nor have codecs whose input must not be negative."""
    return NONE if setting is None or codec_of(setting.codec).nonnegative_input else transform


def through(change: Change, values: Tensor) -> Tensor:
    """`values` after one of the functions of a transform, which take NumPy arrays."""
    return torch.from_numpy(np.ascontiguousarray(change(values.cpu().numpy()))).to(values.device)

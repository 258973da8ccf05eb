"""Fold the transform of an input into the tensors that make the input, so that it costs nothing at run time (docs/methods/awq.md).

Scales, after all tensors of a block are quantised:

    x' = x / s is what a matrix was quantised for        c = s ** -power is what row j of each producer is multiplied by

The codes of all matrices stay. What scales a producer's codes, or the values of a norm, is multiplied and rounded as the file keeps it.

Rotations, when the matrices are read, because codes of rotated rows are other codes:

    x = W1 z,  y = W2 x        T W1 and W2 T^-1 are quantised in place of W1 and W2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures.architecture import Producer
from rwkvquant.checkpoints import Checkpoint, Edit
from rwkvquant.codecs import QTensor, codec_of
from rwkvquant.pipeline.plan import PlannedTensor
from rwkvquant.pipeline.transforms import input_name, rotated_inside
from rwkvquant.recipes import Recipe
from rwkvquant.transforms import NONE, transform_named
from rwkvquant.transforms.diagonal import Diagonal

LOST = 2.0**-10  # of the largest number of a row that is not in codes: float16 rounds by half of that, unless it becomes subnormal
LOST_BY_CODES = 0.25  # times 2**-bits for codes: about a quarter of what codes of Gaussian weights lose


@dataclass(frozen=True)
class Finished:
    """A tensor that is ready for the file. `tensor.transform`: of its input, as it was quantised. `folded_into`: names of tensors."""

    tensor: PlannedTensor
    quantised: QTensor
    method: str
    error: float | None = None
    folded_into: tuple[str, ...] = ()


def fold_rotations(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """From now on `checkpoint` reads pairs of matrices with the recipe's rotation between them, where the recipe wants that."""
    edits: dict[str, Edit] = {}
    for matrix, producers in rotated_inside(checkpoint, recipe):
        T = transform_named(recipe.transform).make(matrix.shape[1], recipe.seed)
        edits[matrix.name] = T.weights
        edits |= {name: lambda W, T=T: np.ascontiguousarray(T.activations(np.ascontiguousarray(W.T)).T) for name in producers}  # type: ignore[misc]
    checkpoint.edit(edits)


def folded(block: Mapping[str, Finished], producers: Mapping[str, Producer]) -> dict[str, Finished]:
    """The tensors of a block by key, with folded transforms moved into the producers of the inputs.

    Where a producer cannot hold the result, because float16 overflows or has too few digits, the matrix keeps its transform for run time.
    """
    result, readers = dict(block), dict[str, list[str]]()
    for key, each in block.items():
        if each.tensor.transform.folded:
            readers.setdefault(str(input_name(each.tensor)), []).append(key)
    for name, keys in readers.items():
        producer, transform = producers[name], block[keys[0]].tensor.transform
        assert isinstance(transform.transform, Diagonal), f"{transform.name} is no factor for each channel"
        s = transform.transform.factors(block[keys[0]].tensor.shape[1], np.float64, transform.values, transform.arrays)
        scaled = _scaled([result[key].quantised for key in producer.tensors if key in result], s**-producer.power)
        held = scaled is not None and len(scaled) == len(producer.tensors)
        into = tuple(result[key].tensor.name for key in producer.tensors) if held else ()
        for key in keys:
            kept = NONE if held else replace(transform, folded=False)
            result[key] = replace(result[key], tensor=replace(result[key].tensor, transform=kept), folded_into=into)
        if held:
            assert scaled is not None
            for key, quantised in zip(producer.tensors, scaled, strict=True):
                result[key] = replace(result[key], quantised=quantised)
    return result


def _scaled(tensors: Sequence[QTensor], factors: NDArray[np.float64]) -> list[QTensor] | None:
    """Row r of each of `tensors` times factors[r]; None where rounding it loses too much of the largest number in row r of any of them."""
    c = factors.astype(np.float32)
    if not all(codec_of(each).scales_rows for each in tensors):
        return None
    scaled = [codec_of(each).rows_scaled(each, c) for each in tensors]
    largest, lost, may_lose = np.zeros(len(c), np.float32), np.zeros(len(c), np.float32), LOST
    for before, after in zip(tensors, scaled, strict=True):
        if codec_of(before).quantizes:
            may_lose = LOST_BY_CODES * 2.0 ** -codec_of(before).packing_of(before).bits
        with np.errstate(invalid="ignore", over="ignore"):
            exact = before.decode().reshape(len(c), -1) * c[:, None]
            np.maximum(largest, np.abs(exact).max(axis=1), out=largest)
            np.maximum(lost, np.abs(after.decode().reshape(len(c), -1) - exact).max(axis=1), out=lost)
    return scaled if bool((lost <= may_lose * largest).all()) else None  # false where an infinite scale has made `lost` infinite or NaN

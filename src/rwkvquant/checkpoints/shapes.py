"""The shape in which the forward takes a tensor, from the table's symbols and a model's sizes."""

from __future__ import annotations

from rwkvquant.architectures import TensorSpec
from rwkvquant.errors import FormatError
from rwkvquant.kernels.state import Dims


def forward_shape(spec: TensorSpec, dims: Dims) -> tuple[int, ...]:
    """Vectors flat (C,), matrices (out, in), a stack of matrices (slices, out, in), by heads (H, N) and (H, N, N).

    Raises FormatError if the sizes lack a rank that the tensor has.
    """
    sizes = {"C": dims.width, "F": dims.hidden, "V": dims.vocab, "H": dims.heads, "N": dims.head_size, **dims.ranks}
    sizes |= {f"5*{name}": 5 * rank for name, rank in dims.ranks.items()}
    try:
        shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape)
    except KeyError as error:
        raise FormatError(f"the model's sizes lack the rank {error} of {spec.name}") from None
    if spec.shape == (1, 1, "C"):
        return shape[2:]
    return (*shape[:-2], shape[-1], shape[-2]) if spec.transposed else shape

"""How large a packed model will be, from its shapes alone: no weights, no download.

The file is what `random_model.py` would write, so what `quantize` writes too, to within its header, tokenizer and the unused part
of the bit budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rwkvquant.architectures import Dims, Role, architecture
from rwkvquant.bench.measure import state_bytes
from rwkvquant.bench.random_model import planned, rotates, rotation
from rwkvquant.config import DEFAULT_BITS
from rwkvquant.formats.table import transform_bytes


@dataclass(frozen=True)
class PlannedSize:
    """`weights`: of all tensors. `tensor_bytes`: of the file, without header and tokenizer. `token_bytes`: what decoding a token reads."""

    weights: int
    tensor_bytes: int
    token_bytes: int


def planned_size(arch: str, dims: Dims, bits: float = DEFAULT_BITS) -> PlannedSize:
    """The sizes with `bits` for projections and LoRA factors, and the default head, embedding and vectors.

    A token reads every tensor except the embedding, one row of that, and the state, which it also writes.
    """
    stored, weights, embedding = 0, 0, 0
    for _, spec, packing in planned(arch, dims, bits=bits):
        stored += packing.stored_bytes
        if rotates(arch, "default") and (transform := rotation(spec, packing)) is not None:
            stored += transform_bytes(transform, packing.shape[-1])
        weights += math.prod(packing.shape)
        embedding += packing.stored_bytes if spec.role is Role.EMBEDDING else 0
    token = stored - embedding + embedding // dims.vocab + 2 * state_bytes(architecture(arch), dims)
    return PlannedSize(weights, stored, token)

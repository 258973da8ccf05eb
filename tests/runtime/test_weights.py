"""Rows of an embedding are decoded on their own, and are the rows of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkvquant.codecs import GridConfig, PackedTensor, QTensor, UniformTensor
from tests.formats.examples import codebook, dense, pairs, uniform, vector_codebook

RNG = np.random.default_rng(0)
KINDS: dict[str, QTensor] = {
    "8-bit scales": uniform(RNG, (20, 96), GridConfig(8, 64)),
    "16-bit scales": uniform(RNG, (20, 96), GridConfig(5, 32, scale_bits=16)),
    "symmetric": uniform(RNG, (20, 96), GridConfig(4, 64, symmetric=True)),
    "codebook": codebook(RNG, (20, 96)),
    "vector codebook": vector_codebook(RNG, (20, 96)),
    "pairs": pairs(RNG, (20, 97)),
    "float16": dense(RNG, (20, 96)),
    "float32": dense(RNG, (20, 96), np.float32),
}


UNIFORM = [kind for kind, tensor in KINDS.items() if isinstance(tensor, UniformTensor)]  # only these have a layout of rows too


@pytest.mark.parametrize(("kind", "layout"), [*((kind, None) for kind in KINDS), *((kind, "rows") for kind in UNIFORM)])
def test_decoded_rows_are_the_rows_of_the_decoded_whole(kind: str, layout: str | None) -> None:
    tensor: Any = KINDS[kind]
    read = PackedTensor.pack(tensor, f"uniform{tensor.bits}.rows" if layout else None).rows
    for ids in ([7], [19, 0, 7, 7], list(range(20))):
        rows = read(ids)
        np.testing.assert_array_equal(rows, KINDS[kind].decode()[ids])
        assert rows.dtype == np.float32

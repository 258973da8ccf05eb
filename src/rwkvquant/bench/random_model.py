"""A packed file of random weights for a given architecture and sizes, written tensor by tensor, without any full-precision weights.

Codes, scales and tables are drawn at random. Scales are such that a row of a matrix has length about 1. So activations stay near 1
through the whole model, as in a trained one. The text that it generates has no meaning.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.architectures import QUANTIZED_ROLES, Dims, Role, TensorSpec, architecture
from rwkvquant.bench.layouts import Shape, choose
from rwkvquant.bench.shapes import released
from rwkvquant.codecs import DenseConfig, GridConfig, PackedTensor, Packing
from rwkvquant.config import DEFAULT_BITS, EMB_BITS, HEAD_BITS, VECTOR_BITS
from rwkvquant.errors import RwkvQuantError
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.formats.tokenizer_data import TokenizerData


def write_random_model(
    path: Path | str, arch: str, dims: Dims, *, layouts: str = "default", bits: float = DEFAULT_BITS, seed: int = 0
) -> None:
    """`layouts` and `bits` as in layouts.py.

    Raises ConfigError for an unknown preset or a budget that cannot be met, RwkvQuantError if the file cannot be written.
    """
    plan = {name: packing for name, _, packing in planned(arch, dims, layouts=layouts, bits=bits)}
    write_model(path, arch, dims, lambda name, spec, shape: plan[name], seed, {"bits": bits, "layouts": layouts})


def planned(arch: str, dims: Dims, *, layouts: str = "default", bits: float = DEFAULT_BITS) -> Iterator[tuple[str, TensorSpec, Packing]]:
    """The packing of each tensor, as write_random_model stores it. Raises ConfigError as it does."""
    shapes = {name: _matrix(shape) for name, spec, shape in _tensors(arch, dims) if spec.role in QUANTIZED_ROLES}
    chosen = choose(layouts, shapes, bits)
    side = _dense_side if layouts == "dense" else default_side
    for name, spec, shape in _tensors(arch, dims):
        yield name, spec, chosen.get(name) or side(spec, shape)


def write_model(
    path: Path | str,
    arch: str,
    dims: Dims,
    packing: Callable[[str, TensorSpec, tuple[int, ...]], Packing],
    seed: int = 0,
    config: dict[str, Any] | None = None,
) -> None:
    """`packing(name, spec, shape)` gives the packing of each tensor. Raises RwkvQuantError if the file cannot be written."""
    rng = np.random.default_rng(seed)
    with ContainerWriter(path) as writer:
        for name, spec, shape in _tensors(arch, dims):
            packed = _random(rng, packing(name, spec, shape), spec)
            source = shape[::-1] if spec.transposed else shape
            writer.add_packed(name, packed, role=spec.role, method="random", source_shape=source, transposed=spec.transposed)
        writer.finish(
            model={"arch": arch, "dims": dims},
            quantization_config=config or {},
            tokenizer=TokenizerData("bytes", {"size": 256}),
            provenance={"random_seed": seed},
        )


def default_side(spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
    """Head, embedding and vectors as `rwkvquant quantize` packs them by default."""
    if spec.role is Role.HEAD:
        return GridConfig(HEAD_BITS).packing(_matrix(shape))
    if spec.role is Role.EMBEDDING:
        return GridConfig(EMB_BITS, symmetric=True, scale_bits=16).packing(_matrix(shape), rows=True)
    vector = GridConfig(VECTOR_BITS, scale_bits=16).packing((1, math.prod(shape)), rows=True)
    side = _dense_side(spec, shape)
    return vector if spec.role is Role.ELEMENTWISE and vector.stored_bytes < side.stored_bytes else side


def _dense_side(spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
    return DenseConfig(32 if spec.role in (Role.NORM, Role.BIAS) else 16).packing(shape)


def _tensors(arch: str, dims: Dims) -> Iterator[tuple[str, TensorSpec, tuple[int, ...]]]:
    """Name, row of the table and shape of every tensor that the forward uses, each slice as a separate tensor."""
    own = architecture(arch)
    for _, spec, layer in own.used(dims.layers):
        if spec.role is not Role.STATE:
            for part in spec.parts:
                yield part if layer is None else own.full_name(layer, part), spec, spec.part_shape(dims)


def _matrix(shape: tuple[int, ...]) -> Shape:
    rows, cols = shape
    return rows, cols


def _random(rng: np.random.Generator, packing: Packing, spec: TensorSpec) -> PackedTensor:
    """Random weights: rows of a length of about 1, vectors between 0 and 1, and norms that change nothing."""
    if spec.role is Role.NORM:
        dtype, count = packing.sizes()["values"]
        return PackedTensor(packing, {"values": np.full(count, 1.0 if spec.name.endswith("weight") else 0.0, dtype)})
    deviation = {Role.ELEMENTWISE: None, Role.BIAS: 0.5, Role.EMBEDDING: 1.0}.get(spec.role, 1 / math.sqrt(packing.shape[-1]))
    return PackedTensor(packing, packing.codec.random_arrays(rng, packing, deviation))


def main(arguments: list[str]) -> int:
    """PATH SHAPE LAYOUTS BITS: `rwkvquant bench --random` runs this in a separate process."""
    path, shape, layouts, bits = arguments
    try:
        arch, dims = released(shape)
        write_random_model(path, arch, dims, layouts=layouts, bits=float(bits))
    except RwkvQuantError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

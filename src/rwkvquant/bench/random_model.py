"""A packed file of random weights for a given architecture and sizes, written tensor by tensor, without any full-precision weights.

Codes, scales and tables are drawn at random. Scales are such that a row of a matrix has length about 1. So activations stay near 1
through the whole model, as in a trained one. The text that it generates has no meaning.

With random weights alone, half of the input of ffn.value would not be zero. A density says how much (density.py).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.architectures import QUANTIZED_ROLES, Dims, Role, SquaredRelu, TensorSpec, architecture
from rwkvquant.architectures.image import released_settings
from rwkvquant.bench.density import lower
from rwkvquant.bench.layouts import Shape, choose
from rwkvquant.bench.shapes import released
from rwkvquant.codecs import DenseConfig, GridConfig, PackedTensor, Packing
from rwkvquant.config import DEFAULT_BITS, DENSITY, EMB_BITS, HEAD_BITS, VECTOR_BITS
from rwkvquant.errors import RwkvQuantError
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.weights import weights_of
from rwkvquant.transforms import Applied
from rwkvquant.transforms.hadamard import HADAMARD


def write_random_model(
    path: Path | str,
    arch: str,
    dims: Dims,
    *,
    layouts: str = "default",
    bits: float = DEFAULT_BITS,
    seed: int = 0,
    density: float = DENSITY,
    rotated: bool | None = None,
) -> None:
    """`layouts` and `bits` as in layouts.py; `density` of the input of ffn.value, in every layer (density.py). rotated: whether inputs are,
    as the default method does it in language models, and so does the preset default.

    Raises ConfigError for an unknown preset, and for a budget or a density that cannot be met, RwkvQuantError if the file cannot be
    written.
    """
    plan = {name: packing for name, _, packing in planned(arch, dims, layouts=layouts, bits=bits)}
    config = {"bits": bits, "layouts": layouts, "density": density}
    rotated = rotates(arch, layouts) if rotated is None else rotated
    write_model(path, arch, dims, lambda name, spec, shape: plan[name], seed, config, density, rotated)


def rotates(arch: str, layouts: str) -> bool:
    """Whether a preset rotates the inputs of quantised matrices, as the default method does it."""
    return layouts == "default" and architecture(arch).modality == "text"


def planned(arch: str, dims: Dims, *, layouts: str = "default", bits: float = DEFAULT_BITS) -> Iterator[tuple[str, TensorSpec, Packing]]:
    """The packing of each tensor, as write_random_model stores it. Raises ConfigError as it does."""
    shapes = {name: _matrix(shape) for name, spec, shape in _tensors(arch, dims) if spec.role in QUANTIZED_ROLES}
    own = architecture(arch)
    sparse = {name for name in shapes if own.reads_mostly_zeros(name, shapes)}
    chosen = choose(layouts, shapes, bits, sparse, images=own.modality == "image")
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
    density: float | None = None,
    rotated: bool = False,
) -> None:
    """`packing(name, spec, shape)` gives the packing of each tensor. With a density, the whole model is in memory once. rotated: the input
    of every projection and LoRA factor that is not stored by columns is, by `hadamard`.

    Raises as `write_random_model` does.
    """
    relu = None if density is None else architecture(arch).squared_relu
    image = released_settings(dims) if architecture(arch).modality == "image" else None
    rng = np.random.default_rng(seed)
    tensors: Iterator[Tensor] = (
        (name, spec, _random(rng, packing(name, spec, shape), spec, relu)) for name, spec, shape in _tensors(arch, dims)
    )
    with ContainerWriter(path) as writer:
        if density is not None and relu is not None:
            tensors = _with_density(arch, dims, list(tensors), density, seed, rotated)
        for name, spec, packed in tensors:
            shape = packed.shape
            source = shape[::-1] if spec.transposed else shape
            transform = rotation(spec, packed.packing) if rotated else None
            writer.add_packed(
                name, packed, role=spec.role, method="random", source_shape=source, transposed=spec.transposed, input_transform=transform
            )
        writer.finish(
            model={"arch": arch, "dims": dims},
            quantization_config=config or {},
            tokenizer=None if image else TokenizerData("bytes", {"size": 256}),
            image=image,
            provenance={"random_seed": seed},
        )


Tensor = tuple[str, TensorSpec, PackedTensor]


def rotation(spec: TensorSpec, packing: Packing) -> Applied | None:
    """The transform of the input of a matrix, if inputs are rotated."""
    return HADAMARD.make(packing.shape[-1], 0) if spec.role in QUANTIZED_ROLES and not packing.codec.nonnegative_input else None


def _with_density(arch: str, dims: Dims, tensors: list[Tensor], density: float, seed: int, rotated: bool) -> Iterator[Tensor]:
    """The same tensors with other norms before the squared ReLUs."""
    by_name = {name: packed for name, _, packed in tensors}

    def read(name: str, spec: TensorSpec) -> list[PackedTensor] | None:
        if spec.role is Role.STATE:
            return None
        return [by_name[name + part.removeprefix(spec.name)] for part in spec.parts]

    weights, own = weights_of(arch, dims, read), architecture(arch)
    if rotated:
        applied = {name: rotation(spec, packed.packing) for name, spec, packed in tensors}
        weights = replace(weights, transforms={name: each for name, each in applied.items() if each is not None})
    lower(weights, density, seed)
    relu = own.squared_relu
    norms = {own.full_name(layer, name) for layer in range(dims.layers) for name in (relu.gain, relu.bias)} if relu else set()
    for name, spec, packed in tensors:
        if name in norms:
            values = packed.arrays["values"].copy()
            values[: dims.width] = weights.vectors[name]
            packed = PackedTensor(packed.packing, {"values": values})
        yield name, spec, packed


def default_side(spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
    """Head, embedding and vectors as `rwkvquant quantize` packs them by default."""
    if spec.role is Role.HEAD:
        return GridConfig(HEAD_BITS).packing(_matrix(shape))
    if spec.role is Role.EMBEDDING:
        rows = spec.input is None  # a row for each token; an embedding of patches is a product
        return GridConfig(EMB_BITS, symmetric=True, scale_bits=16).packing(_matrix(shape), rows)
    vector = GridConfig(VECTOR_BITS, scale_bits=16).packing((1, math.prod(shape)), rows=True)
    side = _dense_side(spec, shape)
    return vector if spec.role is Role.ELEMENTWISE and vector.stored_bytes < side.stored_bytes else side


def _dense_side(spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
    return DenseConfig(32 if spec.role in (Role.NORM, Role.BIAS) else 16).packing(shape)


def _tensors(arch: str, dims: Dims) -> Iterator[tuple[str, TensorSpec, tuple[int, ...]]]:
    """Name, row of the table and shape of every tensor that the forward uses, each slice as a separate tensor."""
    own = architecture(arch)
    usual = own.usual(dims)
    for _, spec, layer in own.used(dims.layers):
        if spec.role is not Role.STATE and (not spec.optional or spec.name in usual):
            for part in spec.parts:
                yield part if layer is None else own.full_name(layer, part), spec, spec.part_shape(dims)


def _matrix(shape: tuple[int, ...]) -> Shape:
    rows, cols = shape
    return rows, cols


def _random(rng: np.random.Generator, packing: Packing, spec: TensorSpec, relu: SquaredRelu | None) -> PackedTensor:
    """Random weights: rows of a length of about 1, vectors between 0 and 1, and norms that change nothing.

    With `relu`, its matrix has rows with a common part, and nothing of the previous token is mixed into its input (density.py).
    """
    if spec.role is Role.NORM:
        dtype, count = packing.sizes()["values"]
        return PackedTensor(packing, {"values": np.full(count, 0.0 if spec.name.endswith("bias") else 1.0, dtype)})
    if relu is not None and spec.name == relu.matrix:
        return PackedTensor(packing, packing.codec.leaning_arrays(rng, packing, 1 / math.sqrt(packing.shape[-1])))
    deviation = {Role.ELEMENTWISE: None, Role.BIAS: 0.5, Role.EMBEDDING: 1.0}.get(spec.role, 1 / math.sqrt(packing.shape[-1]))
    arrays = packing.codec.random_arrays(rng, packing, deviation)
    if relu is not None and spec.name == relu.shift:  # with all scales 0, whatever the codes
        arrays = {suffix: np.zeros_like(array) if array.dtype.kind == "f" else array for suffix, array in arrays.items()}
    return PackedTensor(packing, arrays)


def main(arguments: list[str]) -> int:
    """PATH SHAPE LAYOUTS BITS DENSITY: `rwkvquant bench --random` runs this in a separate process."""
    path, shape, layouts, bits, density = arguments
    try:
        arch, dims = released(shape)
        write_random_model(path, arch, dims, layouts=layouts, bits=float(bits), density=float(density))
    except RwkvQuantError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

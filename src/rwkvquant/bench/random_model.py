"""A packed file of random weights in a given architecture and sizes, written tensor by tensor without any full-precision weights.

Codes, scales and tables are drawn where they will lie in the file. Scales are such that a row of a matrix has length about 1, so
activations stay near 1 through the whole model, as they do in a trained one; what it says means nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import QUANTIZED_ROLES, Dims, Role, TensorSpec, architecture
from rwkvquant.bench.layouts import Packing, Shape, choose, dense, uniform
from rwkvquant.bench.shapes import released
from rwkvquant.codecs import GridConfig
from rwkvquant.config import DEFAULT_BITS, QuantizeConfig
from rwkvquant.errors import RwkvQuantError
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.formats.layout import Layout, TensorParams, expected_arrays, parse_layout, stored_bytes, stored_bytes_dense
from rwkvquant.formats.tokenizer_data import TokenizerData

_DEFAULT = QuantizeConfig()
MEAN_SCALE_CODE = 96.0  # scale codes are drawn from 64 to 127
_CHUNK = 1 << 24

Arrays = dict[str, NDArray[Any]]


def write_random_model(
    path: Path | str, arch: str, dims: Dims, *, layouts: str = "default", bits: float = DEFAULT_BITS, seed: int = 0
) -> None:
    """`layouts` and `bits` as in layouts.py.

    Raises ConfigError for an unknown preset or a budget that cannot be met, RwkvQuantError if the file cannot be written.
    """
    shapes = {name: _matrix(shape) for name, spec, shape in _tensors(arch, dims) if spec.role in QUANTIZED_ROLES}
    chosen = choose(layouts, shapes, bits)
    side = _dense_side if layouts == "dense" else default_side
    write_model(path, arch, dims, lambda name, spec, shape: chosen.get(name) or side(spec, shape), seed, {"bits": bits, "layouts": layouts})


def write_model(
    path: Path | str,
    arch: str,
    dims: Dims,
    packing: Callable[[str, TensorSpec, tuple[int, ...]], Packing],
    seed: int = 0,
    config: dict[str, Any] | None = None,
) -> None:
    """`packing(name, spec, shape)` says what each tensor is packed as."""
    rng = np.random.default_rng(seed)
    with ContainerWriter(path) as writer:
        for name, spec, shape in _tensors(arch, dims):
            layout, params = packing(name, spec, shape)
            arrays = _random_arrays(rng, layout, params, spec)
            source = shape[::-1] if spec.transposed else shape
            writer.add_arrays(
                name, layout, params, arrays, role=spec.role, method="random", source_shape=source, transposed=spec.transposed
            )
        writer.finish(
            model={"arch": arch, "dims": dims},
            quantization_config=config or {},
            tokenizer=TokenizerData("bytes", {"size": 256}),
            provenance={"random_seed": seed},
        )


def default_side(spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
    """Head, embedding and vectors as `rwkvquant quantize` packs them by default."""
    if spec.role is Role.HEAD:
        return uniform(_matrix(shape), GridConfig(_DEFAULT.head_bits))
    if spec.role is Role.EMBEDDING:
        return uniform(_matrix(shape), GridConfig(_DEFAULT.emb_bits, symmetric=True, scale_bits=16), rows=True)
    vector, grid = (1, math.prod(shape)), GridConfig(_DEFAULT.vector_bits, scale_bits=16)
    if spec.role is Role.ELEMENTWISE and stored_bytes(grid, vector, rows_layout=True) < stored_bytes_dense(shape):
        return uniform(vector, grid, rows=True)
    return _dense_side(spec, shape)


def _dense_side(spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
    return dense(shape, 32 if spec.role in (Role.NORM, Role.BIAS) else 16)


def _tensors(arch: str, dims: Dims) -> Iterator[tuple[str, TensorSpec, tuple[int, ...]]]:
    """Every tensor that the forward uses, slices on their own, in the shape of the forward."""
    own = architecture(arch)
    for _, spec, layer in own.used(dims.layers):
        if spec.role is not Role.STATE:
            for part in spec.parts:
                yield part if layer is None else own.full_name(layer, part), spec, spec.part_shape(dims)


def _matrix(shape: tuple[int, ...]) -> Shape:
    rows, cols = shape
    return rows, cols


def _random_arrays(rng: np.random.Generator, layout_id: str, params: TensorParams, spec: TensorSpec) -> Arrays:
    layout, expected = parse_layout(layout_id), expected_arrays(layout_id, params)
    if layout.codec == "dense":
        dtype, count = expected["values"]
        return {"values": _dense_values(rng, spec, params.shape, count).astype(dtype)}
    step = _step_size(layout, params, spec)
    arrays: Arrays = {}
    for suffix, (dtype, count) in expected.items():
        if suffix in ("codes", "coefficients", "basis"):
            arrays[suffix] = _random_bytes(rng, count).view(dtype)
        elif suffix == "codebooks":
            arrays[suffix] = _random_bytes(rng, count) & 127
        elif suffix == "zeros":
            largest = (1 << layout.bits) - 1 if layout.shape == "rows" else 255  # of tiles, zeros are packed bits
            arrays[suffix] = _random_bytes(rng, count) & largest
        elif suffix == "scales" and params.scale_bits == 8:
            arrays[suffix] = 64 + (_random_bytes(rng, count) & 63)
        elif suffix == "scales":
            arrays[suffix] = (step * rng.uniform(0.8, 1.2, count)).astype(dtype)
        else:
            assert suffix == "row_scale"
            arrays[suffix] = np.full(count, step / MEAN_SCALE_CODE if params.scale_bits == 8 else step, dtype)
    return arrays


def _step_size(layout: Layout, params: TensorParams, spec: TensorSpec) -> float:
    """What a code's step is worth, so that rows have length about 1, or vectors lie between 0 and 1."""
    if spec.role is Role.ELEMENTWISE:
        return 2.0**-layout.bits
    spread = 37.0  # of centroids drawn from 0 to 127
    if layout.codec == "uniform":
        spread = math.sqrt((4.0**layout.bits - 1) / 12 * (1 if params.symmetric else 2))
    return (1.0 if spec.role is Role.EMBEDDING else 1 / math.sqrt(params.shape[1])) / spread


def _dense_values(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], count: int) -> NDArray[Any]:
    if spec.role is Role.NORM:
        return np.full(count, 1.0 if spec.name.endswith("weight") else 0.0, np.float32)
    if spec.role is Role.ELEMENTWISE:
        return rng.uniform(0, 1, count).astype(np.float32)
    size = 0.5 if spec.role is Role.BIAS else 1.0 if spec.role is Role.EMBEDDING else 1 / math.sqrt(shape[-1])
    normal = (size * rng.standard_normal(256)).astype(np.float16)  # 256 values are enough, and quick to deal out
    values = np.empty(count, np.float16)
    for start in range(0, count, _CHUNK):
        part = values[start : start + _CHUNK]
        part[:] = normal[_random_bytes(rng, len(part))]
    return values


def _random_bytes(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return np.frombuffer(rng.bytes(count), np.uint8)


def main(arguments: list[str]) -> int:
    """PATH SHAPE LAYOUTS BITS: what `rwkvquant bench --random` runs in a process of its own."""
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

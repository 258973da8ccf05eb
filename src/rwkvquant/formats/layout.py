"""Layouts: which flat arrays a logical tensor becomes, under which id, and back. docs/format.md is this file in prose.

    uniform{1..8}.t16x64, .t16x32   codes, scales, row_scale (8-bit scales), zeros (asymmetric)      matrices
    uniform{1..8}.rows              the same, row by row                                             embedding, vectors
    codebook3.t16x32                codes, codebooks, row_scale                                      matrices
    dense.f16, dense.f32            values                                                           everything else

Every array is little-endian and padded with zeros to a multiple of 64 bytes; padding counts as stored. A new codec adds
an id here, a branch to `expected_arrays`, `pack` and `unpack`, and nothing to the container.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.config import GridConfig
from rwkvquant.errors import FormatError
from rwkvquant.formats.qtensor import CodebookTensor, DenseTensor, QTensor, UniformTensor
from rwkvquant.kernels import tiles

ALIGNMENT = 64
GROUP_MULTIPLE = 32
MAX_GROUP_SIZE = 1 << 20
MAX_DIM = 1 << 31
MAX_NDIM = 4

_LAYOUT_ID = re.compile(r"(uniform[1-8])\.(t16x64|t16x32|rows)|(codebook3)\.(t16x32)|(dense)\.(f16|f32)")
_DENSE_TYPES: dict[str, Any] = {"f16": np.float16, "f32": np.float32}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """A parsed layout id: `codec` uniform | codebook | dense, `bits` of a code (0 if dense), `shape` t16x64 | t16x32 | rows | f16 | f32."""

    codec: str
    bits: int
    shape: str

    @property
    def tile_cols(self) -> int:
        return int(self.shape.removeprefix("t16x"))


@dataclass(frozen=True)
class TensorParams:
    """What a reader must know beside the layout id. The last three are for uniform layouts only."""

    shape: tuple[int, ...]
    group_size: int = 0
    symmetric: bool = False
    scale_bits: int = 0


def parse_layout(layout_id: str) -> Layout:
    """Raises FormatError for an id this version does not know."""
    match = _LAYOUT_ID.fullmatch(layout_id)
    if match is None:
        raise FormatError(
            f"[layout] {layout_id[:60]!r} is not a layout this version reads "
            "(uniform1 to uniform8 .t16x64 .t16x32 .rows, codebook3.t16x32, dense.f16 .f32). Try a newer rwkvquant."
        )
    name, shape = (part for part in match.groups() if part)
    codec = name.rstrip("12345678")
    return Layout(codec, int(name[len(codec) :] or 0), shape)


def choose_layout(kind: str, bits: int, shape: tuple[int, ...], group_size: int = 64, rows_layout: bool = False) -> str:
    """The id for a matrix: `kind` uniform | codebook | dense; `bits` of a code, or 16 | 32 for dense.

    64-column tiles when the columns fill an even number of 32-column halves and no group ends inside a tile; else 32.
    """
    if kind == "dense":
        return f"dense.f{bits}"
    if kind == "codebook":
        return f"codebook{bits}.t16x32"
    if rows_layout:
        return f"uniform{bits}.rows"
    halves = -(-shape[1] // 32)
    return f"uniform{bits}.t16x{64 if halves % 2 == 0 and group_size % 64 == 0 else 32}"


def expected_arrays(layout_id: str, params: TensorParams) -> dict[str, tuple[np.dtype[Any], int]]:
    """suffix -> (dtype, elements including padding): what a tensor's arrays must be, from its shape alone.

    The one place that knows sizes: packing, unpacking, the reader's checks and the planned ledger all ask it.
    Raises FormatError for shapes, group sizes and scales that break docs/format.md.
    """
    layout = parse_layout(layout_id)
    _check_params(layout, layout_id, params)
    if layout.codec == "dense":
        return {"values": _aligned(_DENSE_TYPES[layout.shape], math.prod(params.shape))}
    rows, cols = params.shape
    if layout.shape == "rows":
        stored_rows, codes = rows, rows * tiles.row_bytes(cols, layout.bits)
    else:
        stored_rows, codes = tiles.padded(rows, tiles.TILE_ROWS), tiles.packed_bytes(rows, cols, layout.bits, layout.tile_cols)
    arrays = {"codes": _aligned(np.uint8, codes)}
    if layout.codec == "codebook":
        arrays["codebooks"] = _aligned(np.uint8, tiles.codebook_bytes(rows, cols))
        arrays["row_scale"] = _aligned(np.float16, stored_rows)
        return arrays
    groups = -(-cols // params.group_size)
    arrays["scales"] = _aligned(np.uint8 if params.scale_bits == 8 else np.float16, stored_rows * groups)
    if params.scale_bits == 8:
        arrays["row_scale"] = _aligned(np.float16, stored_rows)
    if not params.symmetric:
        arrays["zeros"] = _aligned(np.uint8, stored_rows * groups * (8 if layout.shape == "rows" else layout.bits) // 8)
    return arrays


def stored_bytes(grid: GridConfig, shape: tuple[int, ...], rows_layout: bool = False) -> int:
    """Bytes of a uniform tensor (out, in) in the file, side information and padding included, without any data."""
    layout_id = choose_layout("uniform", grid.bits, shape, grid.group_size, rows_layout)
    return _total(layout_id, TensorParams(tuple(shape), grid.group_size, grid.symmetric, grid.scale_bits))


def stored_bytes_codebook(shape: tuple[int, ...]) -> int:
    """Bytes of a 3-bit codebook tensor (out, in) in the file."""
    return _total("codebook3.t16x32", TensorParams(tuple(shape)))


def stored_bytes_dense(shape: tuple[int, ...], bits: int = 16) -> int:
    """Bytes of unquantised values in the file; `bits` 16 or 32."""
    return _total(f"dense.f{bits}", TensorParams(tuple(shape)))


def describe(tensor: QTensor) -> TensorParams:
    """The parameters that go into the file's table."""
    if isinstance(tensor, UniformTensor):
        return TensorParams(tensor.shape, tensor.group_size, tensor.zeros is None, 8 if tensor.scales is None else 16)
    return TensorParams(tuple(tensor.shape))


def default_layout(tensor: QTensor) -> str:
    """The id `pack` uses when it is given none."""
    if isinstance(tensor, UniformTensor):
        return choose_layout("uniform", tensor.bits, tensor.shape, tensor.group_size)
    if isinstance(tensor, CodebookTensor):
        return choose_layout("codebook", tensor.bits, tensor.shape)
    return choose_layout("dense", 8 * tensor.values.dtype.itemsize, tensor.shape)


def pack(tensor: QTensor, layout_id: str | None = None) -> tuple[str, dict[str, NDArray[Any]]]:
    """-> (layout id, suffix -> flat array as it lies in the file, padding included). Raises FormatError for an id that does not fit."""
    layout_id = layout_id or default_layout(tensor)
    layout = parse_layout(layout_id)
    expected = expected_arrays(layout_id, describe(tensor))
    if isinstance(tensor, UniformTensor):
        _require_fit(layout_id, layout.codec == "uniform" and layout.bits == tensor.bits, f"{tensor.bits}-bit uniform codes")
        arrays = _uniform_rows(tensor) if layout.shape == "rows" else _uniform_tiles(tensor, layout.tile_cols)
    elif isinstance(tensor, CodebookTensor):
        table = (tensor.bits, tensor.group_rows, tensor.group_cols)
        fits = layout.codec == "codebook" and table == (tiles.CODEBOOK_BITS, tiles.CODEBOOK_ROWS, tiles.CODEBOOK_COLS)
        _require_fit(layout_id, fits, "codebooks of {}-bit codes for {} x {} weights".format(*table))
        arrays = {
            "codes": tiles.pack_tiles(tensor.codes, tensor.bits, layout.tile_cols),
            "codebooks": tiles.pack_codebooks(tensor.codebooks),
            "row_scale": tiles.pack_row_scale(tensor.row_scale),
        }
    else:
        dtype = tensor.values.dtype
        _require_fit(layout_id, layout.codec == "dense" and _DENSE_TYPES[layout.shape] == dtype, f"{dtype} values")
        arrays = {"values": tensor.values.reshape(-1)}
    assert arrays.keys() == expected.keys()
    return layout_id, {suffix: _pad(arrays[suffix], dtype, count) for suffix, (dtype, count) in expected.items()}


def unpack(layout_id: str, params: TensorParams, arrays: Arrays) -> QTensor:
    """The logical tensor of flat arrays. Raises FormatError if their types or sizes are not those of the layout and shape."""
    check_arrays(layout_id, params, {suffix: (array.dtype, array.size) for suffix, array in arrays.items()})
    layout = parse_layout(layout_id)
    if layout.codec == "dense":
        return DenseTensor(arrays["values"][: math.prod(params.shape)].reshape(params.shape))
    rows, cols = params.shape
    if layout.shape == "rows":
        codes = tiles.unpack_rows(arrays["codes"], rows, cols, layout.bits)
    else:
        codes = tiles.unpack_tiles(arrays["codes"], rows, cols, layout.bits, layout.tile_cols)
    row_scale = arrays["row_scale"][:rows] if "row_scale" in arrays else None
    if layout.codec == "codebook":
        assert row_scale is not None
        return CodebookTensor(codes, layout.bits, tiles.unpack_codebooks(arrays["codebooks"], rows, cols), row_scale)
    groups = -(-cols // params.group_size)
    zeros: NDArray[np.uint8] | None = arrays.get("zeros")
    if layout.shape == "rows":
        scales = arrays["scales"][: rows * groups].reshape(rows, groups)
        zeros = None if zeros is None else zeros[: rows * groups].reshape(rows, groups)
    else:
        scales = tiles.unpack_scales(arrays["scales"], rows, groups)
        zeros = None if zeros is None else tiles.unpack_zeros(zeros, rows, groups, layout.bits)
    if row_scale is None:
        return UniformTensor(codes, layout.bits, params.group_size, zeros, scales=scales)
    return UniformTensor(codes, layout.bits, params.group_size, zeros, scale_codes=scales, row_scale=row_scale)


def check_arrays(layout_id: str, params: TensorParams, found: Mapping[str, tuple[np.dtype[Any], int]]) -> None:
    """Raises FormatError if `found`, suffix -> (dtype, elements), is not what `expected_arrays` says."""
    expected = expected_arrays(layout_id, params)
    if found.keys() != expected.keys():
        raise FormatError(f"[layout] {layout_id} has the arrays {', '.join(expected)}; got {', '.join(found) or 'none'}")
    for suffix, (dtype, count) in expected.items():
        if found[suffix] != (dtype, count):
            rule = f"{suffix} of a {layout_id} tensor of shape {list(params.shape)} must be {count} x {dtype}"
            raise FormatError(f"[layout] {rule}; got {found[suffix][1]} x {found[suffix][0]}")


def _uniform_tiles(tensor: UniformTensor, tile_cols: int) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"codes": tiles.pack_tiles(tensor.codes, tensor.bits, tile_cols)}
    if tensor.scales is not None:
        arrays["scales"] = tiles.pack_scales(tensor.scales)
    else:
        assert tensor.scale_codes is not None and tensor.row_scale is not None
        arrays["scales"] = tiles.pack_scales(tensor.scale_codes)
        arrays["row_scale"] = tiles.pack_row_scale(tensor.row_scale)
    if tensor.zeros is not None:
        arrays["zeros"] = tiles.pack_zeros(tensor.zeros, tensor.bits)
    return arrays


def _uniform_rows(tensor: UniformTensor) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"codes": tiles.pack_rows(tensor.codes, tensor.bits)}
    if tensor.scales is not None:
        arrays["scales"] = tensor.scales.reshape(-1)
    else:
        assert tensor.scale_codes is not None and tensor.row_scale is not None
        arrays["scales"] = tensor.scale_codes.reshape(-1)
        arrays["row_scale"] = tensor.row_scale
    if tensor.zeros is not None:
        assert int(tensor.zeros.max(initial=0)) >> tensor.bits == 0, f"a zero does not fit in {tensor.bits} bits"
        arrays["zeros"] = tensor.zeros.reshape(-1)
    return arrays


def _check_params(layout: Layout, layout_id: str, params: TensorParams) -> None:
    axes = MAX_NDIM if layout.codec == "dense" else 2
    right = 1 <= len(params.shape) <= axes and (layout.codec == "dense" or len(params.shape) == axes)
    if not right or not all(1 <= dim <= MAX_DIM for dim in params.shape):
        rule = f"{'at most ' if layout.codec == 'dense' else ''}{axes} axes of at least 1"
        raise FormatError(f"[layout] a {layout_id} tensor has {rule}; got shape {list(params.shape)[:8]}")
    if layout.codec != "uniform":
        return
    size = params.group_size
    if size % GROUP_MULTIPLE or not 0 < size <= MAX_GROUP_SIZE or (layout.shape == "t16x64" and size % 64):
        multiple = 64 if layout.shape == "t16x64" else GROUP_MULTIPLE
        raise FormatError(f"[layout] group_size of {layout_id} must be a multiple of {multiple}; got {size}. Try group_size=64.")
    if params.scale_bits not in (8, 16):
        raise FormatError(f"[layout] scale_bits of {layout_id} must be 8 or 16; got {params.scale_bits}")


def _require_fit(layout_id: str, fits: bool, what: str) -> None:
    if not fits:
        raise FormatError(f"[layout] {layout_id} does not hold {what}. Leave the layout out to have it chosen.")


def _aligned(dtype: Any, count: int) -> tuple[np.dtype[Any], int]:
    kind = np.dtype(dtype).newbyteorder("<")
    return kind, tiles.padded(count * kind.itemsize, ALIGNMENT) // kind.itemsize


def _total(layout_id: str, params: TensorParams) -> int:
    return sum(dtype.itemsize * count for dtype, count in expected_arrays(layout_id, params).values())


def _pad(array: NDArray[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """`array` as `dtype`, with zeros up to `count` elements; itself if nothing is to do."""
    assert array.ndim == 1 and np.can_cast(array.dtype, dtype, "equiv") and len(array) <= count
    if len(array) == count and array.dtype == dtype:
        return np.ascontiguousarray(array)
    full = np.zeros(count, dtype)
    full[: len(array)] = array
    return full

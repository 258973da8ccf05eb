"""Layouts: which flat arrays a logical tensor becomes, under which id, and back. docs/format.md is this file in prose.

    uniform{1..8}.t16x64, .t16x32   codes, scales, row_scale (8-bit scales), zeros (asymmetric)      matrices
    uniform{1..8}.rows              the same, row by row                                             embedding, vectors
    codebook{2..4}.t16x32           codes, codebooks or coefficients and basis, row_scale            matrices
    codebook{2..4}.rows             codes, codebooks, row_scale                                      vectors
    pairs{4..8}.t16x32              codes, codebooks, row_scale                                      matrices
    dense.f16, dense.f32            values                                                           everything else

Every array is little-endian and padded with zeros to a multiple of 64 bytes; padding counts as stored. A new codec adds
an id and its sizes to layout_sizes.py, a branch to `describe`, `pack` and `unpack`, and nothing to the container.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs import CodebookFactors, CodebookTensor, DenseTensor, PairCodebookTensor, QTensor, UniformTensor
from rwkvquant.errors import FormatError
from rwkvquant.formats.layout_sizes import (
    ALIGNMENT,
    DENSE_TYPES,
    Layout,
    TensorParams,
    check_arrays,
    choose_layout,
    expected_arrays,
    parse_layout,
    stored_bytes,
    stored_bytes_codebook,
    stored_bytes_dense,
    stored_bytes_pairs,
)
from rwkvquant.kernels import tiles

__all__ = [
    "ALIGNMENT",
    "Layout",
    "TensorParams",
    "check_arrays",
    "choose_layout",
    "default_layout",
    "describe",
    "expected_arrays",
    "pack",
    "parse_layout",
    "stored_bytes",
    "stored_bytes_codebook",
    "stored_bytes_dense",
    "stored_bytes_pairs",
    "unpack",
]

Arrays = Mapping[str, NDArray[Any]]


def describe(tensor: Any) -> TensorParams:
    """The parameters that go into the file's table."""
    if isinstance(tensor, UniformTensor):
        return TensorParams(tensor.shape, tensor.group_size, tensor.zeros is None, 8 if tensor.scales is None else 16)
    if isinstance(tensor, CodebookTensor):
        factors = tensor.factors
        rank, shift = (0, 0) if factors is None else (len(factors.basis), factors.shift)
        return TensorParams(tensor.shape, group_rows=tensor.group_rows, rank=rank, shift=shift)
    if isinstance(tensor, PairCodebookTensor):
        return TensorParams(tensor.shape, group_rows=tensor.group_rows)
    return TensorParams(tuple(tensor.shape))


def default_layout(tensor: Any) -> str:
    """The id `pack` uses when it is given none."""
    if isinstance(tensor, UniformTensor):
        return choose_layout("uniform", tensor.bits, tensor.shape, tensor.group_size)
    if isinstance(tensor, CodebookTensor):
        return choose_layout("codebook", tensor.bits, tensor.shape, rows_layout=tensor.group_rows == 1)
    if isinstance(tensor, PairCodebookTensor):
        return choose_layout("pairs", tensor.bits, tensor.shape)
    return choose_layout("dense", 8 * tensor.values.dtype.itemsize, tensor.shape)


def pack(tensor: Any, layout_id: str | None = None) -> tuple[str, dict[str, NDArray[Any]]]:
    """-> (layout id, suffix -> flat array as it lies in the file, padding included). Raises FormatError for an id that does not fit."""
    layout_id = layout_id or default_layout(tensor)
    layout = parse_layout(layout_id)
    _check_fit(tensor, layout, layout_id)
    expected = expected_arrays(layout_id, describe(tensor))
    if isinstance(tensor, UniformTensor):
        arrays = _uniform_rows(tensor) if layout.shape == "rows" else _uniform_tiles(tensor, layout.tile_cols)
    elif isinstance(tensor, CodebookTensor):
        arrays = _codebook_rows(tensor) if layout.shape == "rows" else _codebook_tiles(tensor)
    elif isinstance(tensor, PairCodebookTensor):
        arrays = {
            "codes": tiles.pack_tiles(tensor.codes, tensor.bits, layout.tile_cols),
            "codebooks": tiles.pack_pair_codebooks(tensor.codebooks),
            "row_scale": tiles.pack_row_scale(tensor.row_scale),
        }
    else:
        arrays = {"values": tensor.values.reshape(-1)}
    assert arrays.keys() == expected.keys()
    return layout_id, {suffix: _pad(arrays[suffix], dtype, count) for suffix, (dtype, count) in expected.items()}


def unpack(layout_id: str, params: TensorParams, arrays: Arrays) -> QTensor:
    """The logical tensor of flat arrays. Raises FormatError if their types or sizes are not those of the layout and parameters."""
    check_arrays(layout_id, params, {suffix: (array.dtype, array.size) for suffix, array in arrays.items()})
    layout = parse_layout(layout_id)
    if layout.codec == "dense":
        return DenseTensor(arrays["values"][: math.prod(params.shape)].reshape(params.shape))
    rows, cols = params.shape
    codes_wide = -(-cols // 2) if layout.codec == "pairs" else cols
    if layout.shape == "rows":
        codes = tiles.unpack_rows(arrays["codes"], rows, codes_wide, layout.bits)
    else:
        codes = tiles.unpack_tiles(arrays["codes"], rows, codes_wide, layout.bits, layout.tile_cols)
    if layout.codec == "uniform":
        return _uniform(layout, params, arrays, codes)
    row_scale = arrays["row_scale"][:rows]
    if layout.codec == "pairs":
        books = tiles.unpack_pair_codebooks(arrays["codebooks"], rows, params.group_rows, layout.bits)
        return PairCodebookTensor(codes, layout.bits, books, row_scale, cols, params.group_rows)
    return _codebook(layout, params, arrays, codes, row_scale)


def _uniform(layout: Layout, params: TensorParams, arrays: Arrays, codes: tiles.Bytes) -> UniformTensor:
    rows, cols = params.shape
    groups = -(-cols // params.group_size)
    zeros: NDArray[np.uint8] | None = arrays.get("zeros")
    if layout.shape == "rows":
        scales = arrays["scales"][: rows * groups].reshape(rows, groups)
        zeros = None if zeros is None else zeros[: rows * groups].reshape(rows, groups)
    else:
        scales = tiles.unpack_scales(arrays["scales"], rows, groups)
        zeros = None if zeros is None else tiles.unpack_zeros(zeros, rows, groups, layout.bits)
    if params.scale_bits == 16:
        return UniformTensor(codes, layout.bits, params.group_size, zeros, scales=scales)
    return UniformTensor(codes, layout.bits, params.group_size, zeros, scale_codes=scales, row_scale=arrays["row_scale"][:rows])


def _codebook(layout: Layout, params: TensorParams, arrays: Arrays, codes: tiles.Bytes, row_scale: NDArray[np.float16]) -> CodebookTensor:
    (rows, cols), entries, group_rows = params.shape, 2**layout.bits, params.group_rows
    if layout.shape == "rows":
        groups = -(-cols // tiles.VECTOR_COLS)
        books = arrays["codebooks"][: rows * groups * entries].reshape(rows, groups, entries)
        return CodebookTensor(codes, layout.bits, books, row_scale, 1, tiles.VECTOR_COLS)
    if params.rank:
        coefficients = tiles.unpack_tables(arrays["coefficients"], rows, cols, group_rows, params.rank)
        basis = arrays["basis"][: params.rank * entries].reshape(params.rank, entries)
        factors = CodebookFactors(coefficients, basis, params.shift)
        return CodebookTensor(codes, layout.bits, factors.centroids(), row_scale, group_rows, tiles.CODEBOOK_COLS, factors)
    books = tiles.unpack_codebooks(arrays["codebooks"], rows, cols, group_rows, entries)
    return CodebookTensor(codes, layout.bits, books, row_scale, group_rows, tiles.CODEBOOK_COLS)


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


def _codebook_tiles(tensor: CodebookTensor) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"codes": tiles.pack_tiles(tensor.codes, tensor.bits, tiles.CODEBOOK_COLS)}
    if tensor.factors is None:
        arrays["codebooks"] = tiles.pack_codebooks(tensor.codebooks, tensor.group_rows)
    else:
        assert np.array_equal(tensor.codebooks, tensor.factors.centroids()), "codebooks are not those of their factors"
        arrays["coefficients"] = tiles.pack_tables(tensor.factors.coefficients, tensor.group_rows)
        arrays["basis"] = tensor.factors.basis.reshape(-1)
    arrays["row_scale"] = tiles.pack_row_scale(tensor.row_scale)
    return arrays


def _codebook_rows(tensor: CodebookTensor) -> dict[str, NDArray[Any]]:
    assert int(tensor.codebooks.max(initial=0)) < 128, "a centroid does not fit in 7 bits"
    return {"codes": tiles.pack_rows(tensor.codes, tensor.bits), "codebooks": tensor.codebooks.reshape(-1), "row_scale": tensor.row_scale}


def _check_fit(tensor: Any, layout: Layout, layout_id: str) -> None:
    """Raises FormatError if the layout is for another codec, another number of bits, or codebooks of another width."""
    if isinstance(tensor, DenseTensor):
        dtype = tensor.values.dtype
        fits, what = layout.codec == "dense" and DENSE_TYPES[layout.shape] == dtype, f"{dtype} values"
    elif isinstance(tensor, UniformTensor):
        fits, what = (layout.codec, layout.bits) == ("uniform", tensor.bits), f"{tensor.bits}-bit uniform codes"
    elif isinstance(tensor, PairCodebookTensor):
        fits, what = (layout.codec, layout.bits) == ("pairs", tensor.bits), f"pairs of {tensor.bits}-bit codes"
    else:
        cols = tiles.VECTOR_COLS if layout.shape == "rows" else tiles.CODEBOOK_COLS
        fits = (layout.codec, layout.bits, cols) == ("codebook", tensor.bits, tensor.group_cols)
        what = f"codebooks of {tensor.bits}-bit codes for {tensor.group_rows} x {tensor.group_cols} weights"
    if not fits:
        raise FormatError(f"[layout] {layout_id} does not hold {what}. Leave the layout out to have it chosen.")


def _pad(array: NDArray[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """`array` as `dtype`, with zeros up to `count` elements; itself if nothing is to do."""
    assert array.ndim == 1 and np.can_cast(array.dtype, dtype, "equiv") and len(array) <= count
    if len(array) == count and array.dtype == dtype:
        return np.ascontiguousarray(array)
    full = np.zeros(count, dtype)
    full[: len(array)] = array
    return full

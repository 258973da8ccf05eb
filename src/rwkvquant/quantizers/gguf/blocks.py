"""Codes and scales as llama.cpp lays them out in the bytes of a block. NumPy; tested against the `gguf` package's decoders.

    q8_0   d, 32 int8                                     q6_K   128 bytes of low nibbles, 64 of high pairs, 16 int8 scales, d
    q4_0   d, 16 bytes: code j low, code j + 16 high      q3_K   32 bytes of third bits, 64 of low pairs, 12 of scales, d
    q5_0   d, 4 bytes of fifth bits, 16 as q4_0           q4_K   d, e, 12 bytes of scales and minimums, 128 bytes of nibbles

d and e are float16. Codes are stored without their sign: q - lowest; those of q8_0 as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.quantizers.gguf.gptq import BlockCodes

Bytes = NDArray[Any]  # uint8
SHIFTS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)


def pack(matrix: BlockCodes) -> Bytes:
    """-> (rows, bytes of a row)."""
    grid, scales = matrix.grid, matrix.scales
    rows = len(matrix.codes)
    signed = matrix.codes.cpu().numpy().astype(np.int16).reshape(-1, grid.block)
    codes = signed.astype(np.int8).view(np.uint8) if grid.name == "q8_0" else (signed - grid.lowest).astype(np.uint8)
    per_block = grid.block // grid.group

    def whole(values: object) -> NDArray[np.int16]:
        return np.asarray(values, np.int16).reshape(-1, per_block)

    parts = [_half(scales.d.cpu().numpy())]
    if scales.e is not None:
        assert scales.minimum_codes is not None
        parts.append(_half(scales.e.cpu().numpy()))
        minimums = whole(scales.minimum_codes.cpu().numpy()).astype(np.uint8)
    if grid.name == "q6_K":
        assert scales.codes is not None
        packed = [*_six(codes), whole(scales.codes.cpu().numpy()).astype(np.int8).view(np.uint8), *parts]
    elif grid.name == "q3_K":
        assert scales.codes is not None
        packed = [*_three(codes), _three_scales((whole(scales.codes.cpu().numpy()) + 32).astype(np.uint8)), *parts]
    elif grid.name == "q4_K":
        assert scales.codes is not None
        packed = [*parts, _four_scales(whole(scales.codes.cpu().numpy()).astype(np.uint8), minimums), _nibbles(codes, 4)]
    else:
        packed = [*parts, *PLAIN[grid.name](codes)]
    return np.concatenate(packed, axis=1).reshape(rows, -1)


def _half(values: NDArray[np.float32]) -> Bytes:
    return values.reshape(-1, 1).astype("<f2").view(np.uint8)


def _nibbles(codes: Bytes, runs: int) -> Bytes:
    """(n, columns) -> (n, columns / 2): in each of `runs` runs, the first half low and the second half high."""
    halves = codes.reshape(len(codes), runs, 2, -1)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(len(codes), -1)


def _five(codes: Bytes) -> list[Bytes]:
    return [np.packbits(codes >> 4, axis=1, bitorder="little"), _nibbles(codes & 15, 1)]


PLAIN: dict[str, Callable[[Bytes], list[Bytes]]] = {
    "q8_0": lambda codes: [codes],
    "q4_0": lambda codes: [_nibbles(codes, 1)],
    "q5_0": _five,
}


def _pairs(codes: Bytes) -> Bytes:
    """(n, 256) of 0..3 -> (n, 64): in each half, column k 32 + j is at bits 2k of byte j."""
    return np.bitwise_or.reduce(codes.reshape(len(codes), 2, 4, 32) << SHIFTS, axis=2).reshape(len(codes), 64)


def _six(codes: Bytes) -> list[Bytes]:
    return [_nibbles(codes & 15, 2), _pairs(codes >> 4)]


def _three(codes: Bytes) -> list[Bytes]:
    """The third bit of column k 32 + j is bit k of byte j."""
    third = (codes >> 2).reshape(len(codes), 8, 32) << np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    return [np.bitwise_or.reduce(third, axis=1), _pairs(codes & 3)]


def _three_scales(codes: Bytes) -> Bytes:
    """(n, 16) of 0..63 -> (n, 12): low nibbles of scale j and j + 8, then high pairs of j, j + 4, j + 8, j + 12."""
    high = np.bitwise_or.reduce((codes >> 4).reshape(-1, 4, 4) << SHIFTS[0], axis=1)
    return np.concatenate([_nibbles(codes & 15, 1), high], axis=1)


def _four_scales(scales: Bytes, minimums: Bytes) -> Bytes:
    """(n, 8) of 0..63 twice -> (n, 12): the first four of each in six bits, the last four in nibbles and in the free bits of those."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minimums[:, :4] | minimums[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (minimums[:, 4:] & 15) << 4], axis=1)

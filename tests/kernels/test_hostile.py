"""For any claimed sizes of a matrix, the native module refuses it or multiplies; `make sanitize` checks every byte that it reads."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.codecs import PackedTensor
from tests.kernels import matrices
from tests.kernels.guarded import body

NUMBERS = [0, 1, 3, 16, 31, 32, 2**16, 2**20 + 64, 2**31 - 1, 2**31, 2**32 + 8, 2**40, 2**63, 2**64 - 64, 2**64 - 16, 2**64 - 1, 2**64, -1]
NUMBERED = (
    "bits",
    "rows",
    "cols",
    "tile_cols",
    "group_size",
    "symmetric",
    "scale_bits",
    "group_rows",
    "rank",
    "shift",
    "way",
    "direction_bits",
)
VALUES = {"widths": (2, 3, 4, 6)}  # arrays of which other bytes are refused
WANTED = re.compile(r"\] (\w+) (?:must hold (\d+) values|is missing)")
SOUND = [
    matrices.uniform(35, 70, 3),
    matrices.uniform(35, 70, 5, 32, 96, True, 16),
    matrices.uniform(35, 70, 8, 32, 32),
    matrices.codebook(35, 70),
    matrices.codebook(35, 70, 4, 8, rank=3),
    matrices.pairs(35, 70),
    matrices.polar(35, 70, 15, 3),
    matrices.columnwise(35, 70),
    matrices.sections(35, 70),
    matrices.dense(35, 70),
    matrices.dense(35, 70, 32),
    matrices.bfloat(35, 70),
]


def given_what_it_asks_for(matrix: PackedTensor, changes: dict[str, Any], rng: np.random.Generator) -> tuple[Any, dict[str, Any]] | None:
    """A native matrix with some numbers changed, and its arrays: random bytes, exactly as many as it asks for.

    None if it refuses the numbers, or asks for more than a megabyte.
    """
    fields = matrices.fields(matrix, **changes)
    arrays: dict[str, Any] = {suffix: np.zeros(0, array.dtype) for suffix, array in fields["arrays"].items()}
    for _ in range(len(arrays) + 1):
        try:
            return _native.Matrix(**(fields | {"arrays": arrays})), arrays
        except ValueError as refusal:
            result = WANTED.search(str(refusal))
            if result is None or result[2] is None or int(result[2]) > 1 << 20:
                return None
            dtype, values = arrays[result[1]].dtype, VALUES.get(result[1], 256)
            arrays[result[1]] = rng.choice(values, int(result[2]) * dtype.itemsize).astype(np.uint8).view(dtype)
        except (TypeError, OverflowError):
            return None
    raise AssertionError(f"{matrices.name(matrix)} with {changes} goes on asking")


def multiply(held: Any, rows: int, cols: int) -> None:
    """In every body, with int8 and float32, one vector and several, whole and by halves; all arrays are exactly as long as needed."""
    groups = -(-cols // 64)
    for isa in _native.available_isas():
        with body(isa):
            for count in (1, 9):
                x = np.zeros(count * groups * 64, np.float32)
                x.reshape(count, -1)[:, :cols] = 1
                q, scale, minus_sum = (
                    np.empty(x.size, np.int8),
                    np.empty(count * groups, np.float32),
                    np.empty(2 * count * groups, np.int32),
                )
                _native.quantize_activations(x, count, cols, q, scale, minus_sum)
                out, middle = np.empty(count * rows, np.float32), rows // 32 * 16
                for inputs in ((q, scale, minus_sum, x), (None, None, None, x)):
                    _native.product(held, *inputs, count, out, rows, 0, middle)
                    _native.product(held, *inputs, count, out, rows, middle, rows)


@pytest.mark.parametrize("matrix", SOUND, ids=matrices.name)
def test_a_wrong_number_is_refused_or_harmless(matrix: PackedTensor) -> None:
    rng, accepted, refused = np.random.default_rng(0), 0, 0
    for key in NUMBERED:
        for number in (True, False) if key == "symmetric" else NUMBERS:
            result = given_what_it_asks_for(matrix, {key: number}, rng)
            refused += result is None
            accepted += result is not None
            rows, cols = (number if key == name else size for name, size in zip(("rows", "cols"), matrix.shape, strict=True))
            if result is not None and rows * cols < 1 << 20:
                multiply(result[0], rows, cols)
    assert accepted > 20 and refused > 20


@pytest.mark.parametrize("matrix", SOUND, ids=matrices.name)
def test_arrays_of_exactly_the_bytes_asked_for_are_enough_and_fewer_are_not(matrix: PackedTensor) -> None:
    rng = np.random.default_rng(0)
    for rows, cols in ((1, 2), (16, 64), (17, 65), (48, 32), (33, 200)):
        result = given_what_it_asks_for(matrix, {"rows": rows, "cols": cols}, rng)
        assert result is not None
        held, arrays = result
        multiply(held, rows, cols)
        for suffix, array in arrays.items():
            for wrong in (array[:-1], np.repeat(array, 2)[::2], array.reshape(1, -1), np.zeros(len(array)), None, "codes"):
                with pytest.raises((ValueError, TypeError)):
                    _native.Matrix(**matrices.fields(matrix, rows=rows, cols=cols, arrays=arrays | {suffix: wrong}))

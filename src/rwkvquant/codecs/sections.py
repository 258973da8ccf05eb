"""As columnwise, but a column's codes have 2, 3, 4 or 6 bits: more where a column matters more.

After a squared ReLU a few inputs are large and most are small: in our models 128 of 1024 columns have 37 to 87 % of the loss. One width
for all columns cannot answer that. Columns of one width form a section, which is stored as a matrix of the codec columnwise.

Decoded weights are float32 and defined to the last bit: (row_scale * table entry) * column scale. The first product is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import Codec, CodecConfig, NativeForm, random_bytes
from rwkvquant.codecs.packing import Arrays, PackedTensor, Packing
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.errors import FormatError
from rwkvquant.kernels import gemv_sections, tiles
from rwkvquant.kernels.gemv_columnwise import LARGEST_ENTRY, MAX_COLS
from rwkvquant.kernels.gemv_sections import TABLE_ENTRIES, TABLED, WIDTHS, table_of

STEPS = tuple(quarters / 4 for quarters in range(8, 25))  # 2 to 6 bits


@dataclass(frozen=True)
class SectionsConfig(CodecConfig):
    """bits: the mean of the columns' widths, a multiple of a quarter from 2 to 6. The quantiser chooses the width of each column."""

    bits: float = 3

    def __post_init__(self) -> None:
        require("bits", self.bits, STEPS)

    @property
    def code_bits(self) -> int:
        """The least whole number that is not below the mean."""
        return math.ceil(self.bits)

    @property
    def nominal_bits(self) -> float:
        return float(self.bits)

    def counts(self, cols: int) -> dict[int, int]:
        """Columns of the two widths around the mean: one choice. Another choice with the same sum of widths takes the same bytes."""
        low = max(width for width in WIDTHS if width <= self.bits)
        high = min((width for width in WIDTHS if width > low), default=low)
        left = math.floor(self.bits * cols) - low * cols
        more = left // (high - low) if high > low else 0
        counts = dict.fromkeys(WIDTHS, 0) | {high: more} | {low: cols - more}
        if left - more * (high - low) and counts[4] >= 2:  # a bit is left between 4 and 6: two columns of 4 become one of 3 and one of 6
            counts |= {3: 1, 4: counts[4] - 2, 6: more + 1}
        return counts

    def width_sum(self, cols: int) -> int:
        """The bits that the codes of one row have together."""
        return sum(width * count for width, count in self.counts(cols).items())


@dataclass(frozen=True)
class SectionsTensor:
    """codes (rows, cols) uint8, those of column c below 2**widths[c]; widths (cols,) uint8, each 2, 3, 4 or 6; tables (28,) int8 in
    -64..64: 4 entries for codes of 2 bits, 8 for 3, 16 for 4; row_scale (rows,) and col_scale (cols,) float16.

    Column scales are not negative. Columns are in the order of the matrix.
    """

    codes: NDArray[np.uint8]
    widths: NDArray[np.uint8]
    tables: NDArray[np.int8]
    row_scale: NDArray[np.float16]
    col_scale: NDArray[np.float16]

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    @property
    def numbers(self) -> NDArray[np.int8]:
        """What the codes stand for, before scales, (rows, cols)."""
        return gemv_sections.whole_numbers(self.codes, self.tables, self.widths)

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        with np.errstate(invalid="ignore"):  # scales that are not finite, in a damaged file, which `verify` refuses
            weights = self.row_scale.astype(np.float32)[:, None] * self.numbers.astype(np.float32)
            weights *= self.col_scale.astype(np.float32)
        return weights


class SectionsCodec(Codec):
    """sections.r512: a section of columns for each width, in chunks of 512 rows, each stored column by column."""

    name, kind = "sections", "codebook"
    config, tensor = SectionsConfig, SectionsTensor
    layouts = ("sections.r512",)
    keys: ClassVar = {f"cols{width}": int for width in WIDTHS}
    nonnegative_input = True

    def packing(self, config: SectionsConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing(f"sections.{'rows' if rows else 'r512'}", shape, _values(config.counts(shape[-1])))

    def packing_of(self, tensor: SectionsTensor) -> Packing:
        return Packing("sections.r512", tensor.shape, _values({width: int((tensor.widths == width).sum()) for width in WIDTHS}))

    def check(self, packing: Packing) -> None:
        cols, counts = packing.shape[1], _counts_of(packing)
        if cols > MAX_COLS:
            raise FormatError(f"[layout] a {packing.layout} tensor has at most {MAX_COLS} columns; got {cols}")
        if min(counts.values()) < 0 or sum(counts.values()) != cols:
            listed = ", ".join(map(str, counts.values()))
            raise FormatError(f"[layout] the sections of a {packing.layout} tensor must have its {cols} columns together; got {listed}")

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        rows, cols = packing.shape
        return {
            "codes": (np.uint8, gemv_sections.packed_bytes(rows, _counts_of(packing))),
            "widths": (np.uint8, cols),
            "tables": (np.int8, TABLE_ENTRIES),
            "row_scale": (np.float16, tiles.padded(rows, tiles.TILE_ROWS)),
            "col_scale": (np.float16, cols),
        }

    def pack(self, packing: Packing, tensor: SectionsTensor) -> dict[str, NDArray[Any]]:
        assert np.abs(tensor.tables.astype(int)).max() <= LARGEST_ENTRY, f"a table's entries are at most {LARGEST_ENTRY}"
        assert (tensor.col_scale >= 0).all(), "column scales are not negative"
        return {
            "codes": gemv_sections.pack_sections(tensor.codes, tensor.widths),
            "widths": tensor.widths,
            "tables": tensor.tables,
            "row_scale": tiles.pack_row_scale(tensor.row_scale),
            "col_scale": tensor.col_scale,
        }

    def unpack(self, packing: Packing, arrays: Arrays) -> SectionsTensor:
        rows, cols = packing.shape
        widths = arrays["widths"][:cols]
        if broken := self.broken_rule(packing, "widths", widths):
            raise FormatError(f"[layout] {broken[0]} of a {packing.layout} tensor must {broken[1]}")
        codes = gemv_sections.unpack_sections(arrays["codes"], rows, widths)
        return SectionsTensor(codes, widths, arrays["tables"][:TABLE_ENTRIES], arrays["row_scale"][:rows], arrays["col_scale"][:cols])

    def broken_rule(self, packing: Packing, suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
        if suffix == "tables" and (values.max(initial=0) > LARGEST_ENTRY or values.min(initial=0) < -LARGEST_ENTRY):
            return "tables", f"be -{LARGEST_ENTRY} to {LARGEST_ENTRY}"
        if suffix == "col_scale" and (values < 0).any():
            return "col_scale", "be 0 or more"
        if suffix == "widths" and _values({width: int((values == width).sum()) for width in WIDTHS}) != dict(packing.values):
            return "widths", "be 2, 3, 4 or 6, each as often as the table says"
        return None

    def product(self, packed: PackedTensor, x: NDArray[np.float32], int8: bool) -> NDArray[np.float32]:
        tensor = self.unpack(packed.packing, packed.arrays)
        multiply = gemv_sections.gemv_sections if int8 else gemv_sections.float_sections
        out = np.empty((len(x), packed.shape[0]), np.float32)
        for vector, y in zip(x, out, strict=True):
            multiply(tensor.codes, tensor.widths, tensor.tables, tensor.row_scale, tensor.col_scale, vector, y)
        return out

    def native(self, packing: Packing) -> NativeForm | None:
        """`way` as in columnwise.py. The numbers of columns are counted from the array of widths."""
        return NativeForm("sections", {"way": 0})

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        """Tables have the middles of equally likely parts of a normal distribution. All columns have about the same size."""
        cols, counts = packing.shape[1], _counts_of(packing)
        arrays: dict[str, NDArray[Any]] = {}
        for suffix, (dtype, count) in packing.sizes().items():
            arrays[suffix] = random_bytes(rng, dtype, count) if suffix == "codes" else np.zeros(count, dtype)
        arrays["widths"][:cols] = widths = rng.permutation(np.repeat(np.array(WIDTHS, np.uint8), list(counts.values())))
        tables = arrays["tables"][:TABLE_ENTRIES]
        for width in TABLED:
            normal = np.array([NormalDist().inv_cdf((entry + 0.5) / (1 << width)) for entry in range(1 << width)])
            table_of(tables, width)[:] = np.rint(normal * (LARGEST_ENTRY / normal.max()))
        arrays["row_scale"][:] = 2.0**-4 if deviation is None else deviation
        sizes = {width: math.sqrt(np.mean(table_of(tables, width).astype(float) ** 2)) for width in WIDTHS}
        arrays["col_scale"][:cols] = rng.uniform(0.9, 1.1, cols) / np.array([sizes[width] for width in widths.tolist()])
        return arrays


def _values(counts: dict[int, int]) -> dict[str, int]:
    return {f"cols{width}": count for width, count in counts.items()}


def _counts_of(packing: Packing) -> dict[int, int]:
    return {width: packing.values[f"cols{width}"] for width in WIDTHS}


register(SectionsCodec())

"""docs/format.md is true: its examples are run, its tables are computed, and a reader written from it alone reads our file."""

from __future__ import annotations

import json
import re
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.architectures.rwkv import RECURRENT
from rwkvquant.codecs import CodebookConfig, CodebookFactors, ColumnwiseConfig, GridConfig, PairConfig, PolarConfig
from rwkvquant.formats import header, states
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels import chunks, gemv_polar, tiles
from rwkvquant.transforms import transform_names
from tests.formats.examples import TOKENIZER, write_model

DOC = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
EXAMPLE = re.compile(r"row +(\d+) column +(\d+) code (\d)")
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (4, 4)}
BYTE = re.compile(r"byte +(\d+) = 0b([01]{8})")


@pytest.mark.parametrize(("kind", "shape"), [("tile", (16, 32)), ("rows", (2, 64)), ("chunk", (512, 2))])
def test_the_worked_examples_are_what_packing_gives(kind: str, shape: tuple[int, int]) -> None:
    lines = re.search(rf"<!-- example: {kind} \S+ -->\n((?:    row.*\n)+)", DOC)[1].splitlines()
    codes, expected = np.zeros(shape, np.uint8), np.zeros(shape[0] * shape[1] * 3 // 8, np.uint8)
    for line in lines:
        row, col, code = map(int, EXAMPLE.search(line).groups())
        codes[row, col] = code
        for at, value in BYTE.findall(line):
            expected[int(at)] |= int(value, 2)
    pack = {
        "tile": lambda: tiles.pack_tiles(codes, 3, 32),
        "rows": lambda: tiles.pack_rows(codes, 3),
        "chunk": lambda: chunks.pack_chunks(codes, 3),
    }
    packed = pack[kind]()
    assert len(lines) == 3
    assert packed.tolist() == expected.tolist()


def test_the_planes_are_those_of_the_page() -> None:
    line = re.search(r"    planes +(.*)\n", DOC)[1].split()
    assert [tuple(map(int, planes.split(","))) for planes in line] == [tiles.PLANES[bits] for bits in range(1, 9)]


def test_the_worked_centroids_are_those_of_the_definition() -> None:
    line = re.search(r"<!-- example: compressed codebook -->\n(.*)\n", DOC)[1]
    numbers = re.search(r"coefficients (.*)basis (.*)shift (.*)centroids (.*)", line).groups()
    coefficients, basis, shift, centroids = (np.array(part.split(), int) for part in numbers)
    factors = CodebookFactors(coefficients.astype(np.int8)[None, None], basis.astype(np.int8).reshape(2, 4), int(shift[0]))
    assert factors.centroids().tolist() == [[centroids.tolist()]]


def test_the_tables_of_bits_are_computed_from_stored_bytes() -> None:
    shape = (2048, 2048)
    uniform = re.findall(r"\| uniform(\d) \| (\d+) \| (\d+) \| (\w+) \| ([\d.]+) \|", DOC)
    tables = re.findall(r"\| (codebook|pairs|columnwise|polar)(\d+) \| (\d+) \| ([\d-]+) \| ([\d.]+) \|", DOC)
    assert len(uniform) == 7 and len(tables) == 10
    for bits, group, scale_bits, symmetric, claimed in uniform:
        size = GridConfig(int(bits), int(group), symmetric == "yes", int(scale_bits)).stored_bytes(shape)
        assert f"{8 * size / 2048**2:.4f}" == claimed, (bits, group)
    for codec, bits, group_rows, rank, claimed in tables:
        if codec == "codebook":
            size = CodebookConfig(int(bits), int(group_rows), int(rank)).stored_bytes(shape)
        elif codec == "polar":
            size = PolarConfig(int(bits) - 2, 2).stored_bytes(shape)
        elif codec == "pairs":
            size = PairConfig(int(bits), int(group_rows)).stored_bytes(shape)
        else:
            size = ColumnwiseConfig(int(bits)).stored_bytes(shape)
        assert f"{8 * size / 2048**2:.4f}" == claimed, (codec, bits, group_rows)


def test_prefix_dtypes_transforms_and_bounds_are_those_of_the_page() -> None:
    assert f"`{header.PREFIX.decode()}`" in DOC
    assert " | ".join(f'"{dtype}"' for dtype in header.DTYPES) in DOC
    assert "16 MiB" in DOC and header.MAX_HEADER_BYTES == 16 << 20
    assert transform_names() == ("none", "column-power", "hadamard", "column-power-hadamard", "column-scale")
    assert "`column-scale` has the array `scale`" in DOC and "`column-power-hadamard` has the keys" in DOC
    assert "`none` is T = 1." in DOC and "`hadamard` has the key `seed`" in DOC


def test_the_places_for_states_are_those_of_the_page() -> None:
    flat = " ".join(DOC.split())
    assert states.CODECS == ("float32",) and "means `float32`. That is the only codec so far" in flat
    first, second, last = (array.name for array in RECURRENT)
    assert f"of both RWKV `{first}`, `{second}` and `{last}`." in flat


def test_a_reader_written_from_the_page_alone_decodes_every_matrix(tmp_path: Path) -> None:
    """Plain loops over the page's formulas; only float32 comes from NumPy."""
    path = write_model(tmp_path / "m.safetensors")
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    text, data = raw[8 : 8 + n], raw[8 + n :]
    entries = json.loads(text)
    metadata = entries.pop("__metadata__")
    assert zlib.crc32(text[:33] + b"00000000" + text[41:]) == int(metadata["header_crc32"], 16)
    types = {"U8": np.uint8, "I8": np.int8, "U16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}

    def array(name: str) -> np.ndarray:
        begin, end = entries[name]["data_offsets"]
        return np.frombuffer(data[begin:end], types[entries[name]["dtype"]])

    packed = open_packed(path)
    for entry in json.loads(metadata["tensors"])["tensors"]:
        arrays = {suffix: array(f"{entry['name']}.{suffix}") for suffix in entry["arrays"]}
        for suffix, crc in entry["arrays"].items():
            assert zlib.crc32(arrays[suffix].tobytes()) == int(crc, 16)
        weights = decode_by_the_page(entry, arrays)
        assert np.array_equal(weights, packed.qtensor(entry["name"]).decode()), entry["name"]
    for suffix, described in json.loads(metadata["tokenizer"])["arrays"].items():
        assert np.array_equal(array(f"tokenizer.{suffix}")[: described["bytes"]], TOKENIZER.arrays[suffix])


def decode_by_the_page(entry: dict, arrays: dict[str, np.ndarray]) -> np.ndarray:
    codec, kind = entry["layout"].split(".")
    if codec == "dense":
        return arrays["values"][: int(np.prod(entry["shape"]))].reshape(entry["shape"]).astype(np.float32)
    rows, cols = entry["shape"]
    bits, f32 = 0 if codec == "sections" else int(codec.lstrip("abcdefghijklmnopqrstuvwxyz")), np.float32
    weights = np.zeros((rows, cols), f32)
    for r in range(rows):
        for col in range(cols):
            if codec.startswith("pairs"):
                code = code_by_the_page(arrays["codes"], kind, -(-cols // 2), bits, r, col // 2)
                centroid = int(arrays["codebooks"][(r // entry["group_rows"] * 2 + col % 2) * 2**bits + code])
                weights[r, col] = f32(arrays["row_scale"][r]) * f32(centroid - 64)
                continue
            if codec.startswith("polar"):
                weights[r, col] = f32(arrays["row_scale"][r]) * f32(polar_number_by_the_page(entry, arrays, bits, r, col))
                continue
            if codec == "sections":
                weights[r, col] = section_weight_by_the_page(arrays, rows, cols, r, col)
                continue
            if codec.startswith("columnwise"):
                entry_of = int(arrays["table"][columnwise_code_by_the_page(arrays["codes"], rows, cols, bits, r, col)])
                weights[r, col] = f32(f32(arrays["row_scale"][r]) * f32(entry_of)) * f32(arrays["col_scale"][col])
                continue
            if codec.startswith("vectors"):
                weights[r, col] = vector_weight_by_the_page(entry, arrays, bits, r, col)
                continue
            code = code_by_the_page(arrays["codes"], kind, cols, bits, r, col)
            if codec.startswith("rowtables"):
                weights[r, col] = f32(arrays["row_scale"][r]) * f32(arrays["tables"][r * 2**bits + code])
                continue
            if codec.startswith("codebook"):
                weights[r, col] = f32(arrays["row_scale"][r]) * f32(centroid_by_the_page(entry, arrays, bits, r, col, code) - 64)
                continue
            block, row, groups, g = r // 16, r % 16, -(-cols // entry["group_size"]), col // entry["group_size"]
            scale = f32(arrays["scales"][r * groups + g if kind == "rows" else (block * groups + g) * 16 + row])
            if entry["scale_bits"] == 8:
                scale = f32(arrays["row_scale"][r]) * scale
            zero = 2 ** (bits - 1)
            if not entry["symmetric"] and kind == "rows":
                zero = int(arrays["zeros"][r * groups + g])
            elif not entry["symmetric"]:
                zero, low, start = 0, 0, (block * groups + g) * 2 * bits
                for p in PLANES[bits]:
                    whole = int.from_bytes(arrays["zeros"][start : start + 2 * p].tobytes(), "little")
                    zero |= (whole >> p * row) % 2**p << low
                    start, low = start + 2 * p, low + p
            weights[r, col] = scale * f32(code - zero)
    return weights


def code_by_the_page(codes: np.ndarray, kind: str, cols: int, bits: int, r: int, col: int) -> int:
    """The code in row r, column col of `cols` columns of codes."""
    row, code, low = r % 16, 0, 0
    if kind == "rows":
        start = r * (-(-cols // 64) * 8 * bits)
    else:
        tile_cols = int(kind[4:])
        start = (r // 16 * -(-cols // tile_cols) + col // tile_cols) * 2 * tile_cols * bits
    for p in PLANES[bits]:
        if kind == "rows":
            byte, turn, plane_bytes = col // (8 // p), col % (8 // p), -(-cols // 64) * 8 * p
        else:
            j, c, n = col % tile_cols // 4, col % 4, tile_cols // 4 * p // 8
            byte, turn, plane_bytes = j % n * 64 + 4 * row + c, j // n, n * 64
        code |= (int(codes[start + byte]) >> p * turn) % 2**p << low
        start, low = start + plane_bytes, low + p
    return code


def vector_weight_by_the_page(entry: dict, arrays: dict[str, np.ndarray], length: int, r: int, col: int) -> np.float32:
    total, cols = np.float32(0), entry["shape"][1]
    for prefix, bits in (("", entry["table_bits"]), ("residual_", entry["residual_bits"])):
        if bits:
            code = code_by_the_page(arrays[f"{prefix}codes"], "rows", cols, bits, r // length, col)
            total += np.float32(arrays[f"{prefix}table"][code * length + r % length])
    return total


def columnwise_code_by_the_page(codes: np.ndarray, rows: int, cols: int, bits: int, r: int, col: int) -> int:
    chunk, padded_rows = r // 512, -(-rows // 128) * 128
    pieces, piece, group, i = min(512, padded_rows - 512 * chunk) // 128, r % 512 // 128, r % 128 // 16, r % 16
    start, code, low = 512 * chunk * cols * bits // 8 + col * bits * 16 * pieces, 0, 0
    for p in PLANES[bits]:
        byte = int(codes[start + group % p * 16 * pieces + 16 * piece + i])
        code |= (byte >> p * (group // p)) % 2**p << low
        start, low = start + p * 16 * pieces, low + p
    return code


@cache
def e8_by_the_page(bits: int) -> list[list[int]]:
    """Directions as the page makes them, in whole numbers and fractions of them; rounding to 9 digits keeps these apart."""
    norm, points = 0, []
    while len(points) < 2**bits:
        norm += 2
        points += [point for point in shell_by_the_page(norm) if norm % 8 or not halved_by_the_page(point)]
    P = np.array(points, float)
    size, nearest, at, chosen = (P * P).sum(1), np.full(len(P), -np.inf), 0, []
    for _ in range(2**bits):
        chosen.append([int(np.sign(x)) * int(np.floor(127 * abs(x) / np.sqrt(size[at]) + 0.5)) for x in P[at]])
        dots = P @ P[at]
        nearest = np.maximum(nearest, np.round(np.abs(dots) * dots / (size * size[at]), 9))
        nearest[at] = np.inf
        at = int(nearest.argmin())
    return chosen


def shell_by_the_page(norm: int) -> list[tuple[int, ...]]:
    points: list[tuple[int, ...]] = []
    for values in (range(-4, 5, 2), range(-3, 4, 2)) if norm < 7 else (range(-6, 7, 2), range(-5, 6, 2)):
        found: list[tuple[int, ...]] = [()]
        for _ in range(8):
            found = [(*point, value) for point in found for value in values if sum(x * x for x in point) + value * value <= 4 * norm]
        points += [point for point in found if sum(x * x for x in point) == 4 * norm and sum(point) % 4 == 0]
    return sorted(points)


def halved_by_the_page(point: tuple[int, ...]) -> bool:
    half = [x // 2 for x in point]
    return all(x % 2 == 0 for x in point) and len({x % 2 for x in half}) == 1 and sum(half) % 4 == 0


LEVELS = {int(b): [int(level) for level in levels.split()] for b, levels in re.findall(r"    b = (\d)   ((?:\d+ *)+)\n", DOC)}


def polar_number_by_the_page(entry: dict, arrays: dict[str, np.ndarray], bits: int, r: int, col: int) -> int:
    tiles, a, h = -(-entry["shape"][1] // 64), entry["direction_bits"], bits - 16
    tile, i = r // 16 * tiles + col // 64, col % 64 // 8 * 16 + r % 16
    code = int(arrays["codes"][128 * tile + i])
    if h:
        code += (int(arrays["high"][16 * h * tile + i // (8 // h)]) >> h * (i % (8 // h))) % 2**h << 16
    return (e8_by_the_page(a)[code % 2**a][col % 8] * LEVELS[bits - a][code // 2**a] + 2**14) >> 15


def section_weight_by_the_page(arrays: dict[str, np.ndarray], rows: int, cols: int, r: int, col: int) -> np.float32:
    widths, start, table = arrays["widths"][:cols].tolist(), 0, 0
    width, padded_rows, f32 = widths[col], -(-rows // 128) * 128, np.float32
    for narrower in (2, 3, 4):
        if narrower < width:
            start += padded_rows * widths.count(narrower) * narrower // 8
            table += 2**narrower
    place, count = widths[:col].count(width), widths.count(width)
    code = columnwise_code_by_the_page(arrays["codes"][start:], rows, count, min(width, 4), r, place)
    number = int(arrays["tables"][table + code]) if width < 6 else 0
    if width == 6:
        high = arrays["codes"][start + padded_rows * count * 4 // 8 :]
        number = code + 16 * columnwise_code_by_the_page(high, rows, count, 2, r, place) - 32
    return f32(f32(arrays["row_scale"][r]) * f32(number)) * f32(arrays["col_scale"][col])


def centroid_by_the_page(entry: dict, arrays: dict[str, np.ndarray], bits: int, r: int, col: int, code: int) -> int:
    group_rows, rank, shift, cols = entry["group_rows"], entry["rank"], entry["shift"], entry["shape"][1]
    if entry["layout"].endswith(".rows"):
        return int(arrays["codebooks"][(r * -(-cols // 64) + col // 64) * 2**bits + code])
    table = (r // 16 * -(-cols // 32) + col // 32) * (16 // group_rows) + r % 16 // group_rows
    if rank == 0:
        return int(arrays["codebooks"][table * 2**bits + code])
    total = sum(int(arrays["coefficients"][table * rank + i]) * int(arrays["basis"][i * 2**bits + code]) for i in range(rank))
    half = 2 ** (shift - 1) if shift else 0
    return min(63, max(-64, (total + half) >> shift)) + 64


def test_levels_of_magnitudes_are_those_of_the_page() -> None:
    assert {bits: tuple(levels) for bits, levels in LEVELS.items()} == gemv_polar.LEVELS


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_in_chunks_are_where_the_page_says(bits: int) -> None:
    """The model above has one chunk of one piece; here are a whole chunk and one of two pieces."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (700, 3), dtype=np.uint8)
    packed = chunks.pack_chunks(codes, bits)
    read = [[columnwise_code_by_the_page(packed, 700, 3, bits, r, col) for col in range(3)] for r in range(700)]
    assert np.array_equal(read, codes)

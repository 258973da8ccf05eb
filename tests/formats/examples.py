"""Small random tensors of every kind, and a whole model packed from them. NumPy only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rwkvquant.architectures import Dims
from rwkvquant.codecs import (
    CodebookFactors,
    CodebookTensor,
    ColumnwiseTensor,
    DenseTensor,
    GridConfig,
    PairCodebookTensor,
    PolarTensor,
    QTensor,
    RowTablesTensor,
    SectionsTensor,
    UniformTensor,
    VectorsTensor,
)
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.formats.tokenizer_data import TokenizerData

DIMS = Dims(layers=2, width=32, hidden=64, vocab=48, heads=2, head_size=16, ranks={"Rw": 8})
TOKENIZER = TokenizerData(
    "bpe",
    {"special_tokens": {}},
    {"table": np.arange(100, dtype=np.uint8), "merges": np.arange(64, dtype=np.uint8), "none": np.zeros(0, np.uint8)},
)

WITHOUT_PRODUCT = ["rowtables3.rows", "rowtables4.rows", "vectors2.rows"]  # layouts of the example model that engines decode


def uniform(rng: np.random.Generator, shape: tuple[int, int], grid: GridConfig) -> UniformTensor:
    rows, cols = shape
    groups = -(-cols // grid.group_size)
    codes = rng.integers(0, 2**grid.bits, shape, dtype=np.uint8)
    zeros = None if grid.symmetric else rng.integers(0, 2**grid.bits, (rows, groups), dtype=np.uint8)
    if grid.scale_bits == 16:
        return UniformTensor(codes, grid.bits, grid.group_size, zeros, scales=rng.random((rows, groups)).astype(np.float16))
    scale_codes, row_scale = rng.integers(0, 256, (rows, groups), dtype=np.uint8), rng.random(rows).astype(np.float16)
    return UniformTensor(codes, grid.bits, grid.group_size, zeros, scale_codes=scale_codes, row_scale=row_scale)


def codebook(rng: np.random.Generator, shape: tuple[int, int], bits: int = 3, group_rows: int = 2, rank: int = 0) -> CodebookTensor:
    """Of rank above 0 it is compressed, with a shift that lets some centroids reach both ends of their range."""
    rows, cols = shape
    blocks = (-(-rows // group_rows), -(-cols // 32))
    codes, row_scale = rng.integers(0, 2**bits, shape, dtype=np.uint8), rng.random(rows).astype(np.float16)
    if not rank:
        return CodebookTensor(codes, bits, rng.integers(0, 128, (*blocks, 2**bits), dtype=np.uint8), row_scale, group_rows)
    coefficients = rng.integers(-128, 128, (*blocks, rank), dtype=np.int8)
    factors = CodebookFactors(coefficients, rng.integers(-128, 128, (rank, 2**bits), dtype=np.int8), int(rng.integers(6, 9)))
    return CodebookTensor(codes, bits, factors.centroids(), row_scale, group_rows, factors=factors)


def vector_codebook(rng: np.random.Generator, shape: tuple[int, int], bits: int = 3) -> CodebookTensor:
    rows, cols = shape
    books = rng.integers(0, 128, (rows, -(-cols // 64), 2**bits), dtype=np.uint8)
    codes = rng.integers(0, 2**bits, shape, dtype=np.uint8)
    return CodebookTensor(codes, bits, books, rng.random(rows).astype(np.float16), 1, 64)


def pairs(rng: np.random.Generator, shape: tuple[int, int], bits: int = 4, group_rows: int = 16) -> PairCodebookTensor:
    rows, cols = shape
    codes = rng.integers(0, 2**bits, (rows, -(-cols // 2)), dtype=np.uint8)
    books = rng.integers(0, 128, (-(-rows // group_rows), 2**bits, 2), dtype=np.uint8)
    return PairCodebookTensor(codes, bits, books, rng.random(rows).astype(np.float16), cols, group_rows)


def polar(
    rng: np.random.Generator, shape: tuple[int, int], direction_bits: int = 12, magnitude_bits: int = 4, kind: str = "e8"
) -> PolarTensor:
    rows, cols = shape
    codes = rng.integers(0, 1 << direction_bits + magnitude_bits, (rows, -(-cols // 8)), dtype=np.uint32)
    return PolarTensor(codes, direction_bits, magnitude_bits, kind, rng.random(rows).astype(np.float16), cols)


def columnwise(rng: np.random.Generator, shape: tuple[int, int], bits: int = 3) -> ColumnwiseTensor:
    rows, cols = shape
    table = np.sort(rng.integers(-64, 65, 2**bits)).astype(np.int8)
    row_scale, col_scale = rng.standard_normal(rows).astype(np.float16), rng.random(cols).astype(np.float16)
    return ColumnwiseTensor(rng.integers(0, 2**bits, shape, dtype=np.uint8), table, row_scale, col_scale)


def sections(rng: np.random.Generator, shape: tuple[int, int], widths: tuple[int, ...] = (2, 3, 4, 6)) -> SectionsTensor:
    """Columns of these widths, in no order."""
    rows, cols = shape
    of_columns = rng.choice(np.array(widths, np.uint8), cols)
    codes = (rng.integers(0, 64, shape, dtype=np.uint8) & (2**of_columns - 1)).astype(np.uint8)
    row_scale, col_scale = rng.standard_normal(rows).astype(np.float16), rng.random(cols).astype(np.float16)
    return SectionsTensor(codes, of_columns, rng.integers(-64, 65, 28).astype(np.int8), row_scale, col_scale)


def rowtables(rng: np.random.Generator, shape: tuple[int, int], bits: int = 3) -> RowTablesTensor:
    tables = rng.integers(-128, 128, (shape[0], 2**bits), dtype=np.int8)
    return RowTablesTensor(rng.integers(0, 2**bits, shape, dtype=np.uint8), tables, rng.random(shape[0]).astype(np.float16))


def vectors(rng: np.random.Generator, shape: tuple[int, int], length: int = 4, bits: int = 5, residual_bits: int = 3) -> VectorsTensor:
    """Without residual bits it has one table."""
    size = (-(-shape[0] // length), shape[1])
    codes = [rng.integers(0, 2**b, size, dtype=np.uint8) for b in (bits, residual_bits)]
    tables = [rng.standard_normal((2**b, length)).astype(np.float16) for b in (bits, residual_bits)]
    second = residual_bits > 0
    return VectorsTensor(codes[0], tables[0], codes[1] if second else None, tables[1] if second else None, shape[0])


def dense(rng: np.random.Generator, shape: tuple[int, ...], dtype: type = np.float16) -> DenseTensor:
    return DenseTensor(rng.standard_normal(shape).astype(dtype))


def of_uniform(rng: np.random.Generator) -> Iterator[tuple[str, UniformTensor]]:
    for bits, tiling in itertools.product(range(1, 9), ("t16x64", "t16x32", "rows")):
        for symmetric, scale_bits in itertools.product((False, True), (8, 16)):
            yield f"uniform{bits}.{tiling}", uniform(rng, (17, 130), GridConfig(bits, 64, symmetric, scale_bits))


def of_codebook(rng: np.random.Generator) -> Iterator[tuple[str, CodebookTensor]]:
    for bits in (2, 3, 4):
        for rank in (0, 3):
            yield f"codebook{bits}.t16x32", codebook(rng, (17, 70), bits, 4, rank)
        yield f"codebook{bits}.rows", vector_codebook(rng, (3, 70), bits)


def of_pairs(rng: np.random.Generator) -> Iterator[tuple[str, PairCodebookTensor]]:
    return ((f"pairs{bits}.t16x32", pairs(rng, (17, 67), bits)) for bits in range(4, 9))


def of_polar(rng: np.random.Generator) -> Iterator[tuple[str, PolarTensor]]:
    """Directions that are made quickly."""
    for bits, direction_bits, kind in ((16, 12, "e8"), (16, 13, "random"), (17, 13, "e8"), (18, 15, "random"), (20, 16, "random")):
        yield f"polar{bits}.t16x8", polar(rng, (17, 67), direction_bits, bits - direction_bits, kind)


def of_columnwise(rng: np.random.Generator) -> Iterator[tuple[str, ColumnwiseTensor]]:
    """One piece, a chunk of three, and a whole chunk before one of two."""
    for bits in (2, 3, 4):
        yield from ((f"columnwise{bits}.r512", columnwise(rng, shape, bits)) for shape in ((17, 67), (300, 33), (700, 5)))


def of_sections(rng: np.random.Generator) -> Iterator[tuple[str, SectionsTensor]]:
    """As of_columnwise; in the last two some widths have no columns."""
    for shape, widths in (((17, 67), (2, 3, 4, 6)), ((300, 33), (2, 3, 4, 6)), ((700, 5), (2, 4)), ((130, 9), (6,))):
        yield "sections.r512", sections(rng, shape, widths)


def of_rowtables(rng: np.random.Generator) -> Iterator[tuple[str, RowTablesTensor]]:
    return ((f"rowtables{bits}.rows", rowtables(rng, (17, 67), bits)) for bits in (2, 3, 4))


def of_vectors(rng: np.random.Generator) -> Iterator[tuple[str, VectorsTensor]]:
    """The last vectors of a column end beyond it."""
    for length, bits, residual_bits in ((2, 4, 1), (2, 6, 0), (4, 8, 4), (8, 8, 8)):
        yield f"vectors{length}.rows", vectors(rng, (19, 67), length, bits, residual_bits)


def of_dense(rng: np.random.Generator) -> Iterator[tuple[str, DenseTensor]]:
    return iter((("dense.f16", dense(rng, (3, 67))), ("dense.f32", dense(rng, (3, 67), np.float32))))


# Codec's name -> matrices in each of its layouts. A codec that is registered without examples fails tests/formats/test_every_codec.py.
EXAMPLES: dict[str, Callable[[np.random.Generator], Iterator[tuple[str, QTensor]]]] = {
    "uniform": of_uniform,
    "codebook": of_codebook,
    "pairs": of_pairs,
    "polar": of_polar,
    "columnwise": of_columnwise,
    "sections": of_sections,
    "rowtables": of_rowtables,
    "vectors": of_vectors,
    "dense": of_dense,
}


def add_model(writer: ContainerWriter, seed: int = 0) -> None:
    """Every codec, role and option once, in the names of RWKV-7; not a complete model, but all that fixes its sizes."""
    rng, C, F, V = np.random.default_rng(seed), DIMS.width, DIMS.hidden, DIMS.vocab
    writer.add("emb.weight", uniform(rng, (V, C), GridConfig(8, 64)), role="embedding", method="rtn", layout="uniform8.rows")
    for layer in range(DIMS.layers):
        block = f"blocks.{layer}."
        writer.add(block + "att.receptance.weight", uniform(rng, (C, C), GridConfig(3, 64)), role="projection", method="gptq", error=0.25)
        writer.add(block + "att.key.weight", codebook(rng, (C, C)), role="projection", method="kmeans")
        key = uniform(rng, (F, C), GridConfig(2, 128, scale_bits=16) if layer else GridConfig(5, 32, True))
        writer.add(block + "ffn.key.weight", key, role="projection", method="rtn")
        value = sections(rng, (C, F)) if layer else columnwise(rng, (C, F))
        writer.add(block + "ffn.value.weight", value, role="projection", method="rtn")
        lora = uniform(rng, (8, C), GridConfig(4, 32))
        writer.add(block + "att.w1", lora, role="lora", method="rtn", source_shape=(C, 8), transposed=True)
        writer.add(block + "att.a1", codebook(rng, (5, C), 4, 8, rank=3), role="lora", method="gptvq", source_shape=(C, 5), transposed=True)
        writer.add(block + "att.a2", pairs(rng, (C, 5), 5), role="lora", method="gptvq", source_shape=(5, C), transposed=True)
        second = polar(rng, (C, 8), 13, 3 + layer)
        writer.add(block + "att.w2", second, role="lora", method="pcdvq", source_shape=(8, C), transposed=True)
        tables = rowtables(rng, (8, C), 3 + layer)
        writer.add(block + "att.g1", tables, role="lora", method="lnq", source_shape=(C, 8), transposed=True)
        of_rows = vectors(rng, (5, C), 2, 4, 2 * layer)
        writer.add(block + "att.v1", of_rows, role="lora", method="vptq", source_shape=(C, 5), transposed=True)
        writer.add(block + "att.x_k", vector_codebook(rng, (1, C), 2), role="elementwise", method="kmeans", source_shape=(1, 1, C))
        vector = uniform(rng, (1, C), GridConfig(8, 64))
        writer.add(block + "att.x_r", vector, role="elementwise", method="rtn", layout="uniform8.rows", source_shape=(1, 1, C))
        writer.add(block + "ln1.weight", dense(rng, (C,), np.float32), role="norm", method="dense")
        writer.add(block + "att.w0", dense(rng, (1, 1, C)), role="bias", method="dense")
    writer.add("head.weight", uniform(rng, (V, C), GridConfig(6, 64)), role="head", method="rtn")


def finish(writer: ContainerWriter, dims: Dims = DIMS, tokenizer: TokenizerData = TOKENIZER) -> None:
    writer.finish(
        model={"arch": "rwkv7", "dims": dims},
        quantization_config={"bits": 3, "group_size": 64, "modules_to_not_convert": ["ln"]},
        tokenizer=tokenizer,
        provenance={"source_sha256": "00" * 32, "calibration_sha256": None},
    )


def write_model(path: Path, seed: int = 0) -> Path:
    with ContainerWriter(path) as writer:
        add_model(writer, seed)
        finish(writer)
    return path

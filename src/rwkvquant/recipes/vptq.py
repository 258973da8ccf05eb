"""VPTQ: one code for neighbouring rows of a column, and a second for what it leaves, column by column (arXiv:2409.17066;
docs/methods/vptq.md)."""

from __future__ import annotations

from rwkvquant.codecs import VectorsConfig
from rwkvquant.codecs.vectors import BITS, LENGTHS, RESIDUAL_BITS
from rwkvquant.recipes.method import Method, Option, Said
from rwkvquant.recipes.options import ACT_ORDER, CLIP_SEARCH, COMMON, FALL_BACK, STYLE, shared
from rwkvquant.recipes.recipe import Chooser, Recipe
from rwkvquant.recipes.setting import Setting

OPTIONS = (
    Option("vector_length", LENGTHS, "Rows that share a code, of one column", 4),
    Option("table_bits", BITS, "Bits of a code: the table of a matrix has 2^N vectors of 16-bit numbers", 8),
    Option("residual_bits", RESIDUAL_BITS, "Bits of a second code, for what the first leaves; 0 for none", 4),
)


def build(said: Said) -> Recipe:
    codec = VectorsConfig(said.vector_length, said.table_bits, said.residual_bits)
    return Recipe(candidates=(Setting("vptq", codec),), chooser=Chooser(), **shared(said, "gptq"))


METHOD = Method(
    "vptq",
    "one code for neighbouring rows of a column, with a table for the rest",
    (*OPTIONS, STYLE, CLIP_SEARCH, ACT_ORDER, FALL_BACK, *COMMON),
    build,
)

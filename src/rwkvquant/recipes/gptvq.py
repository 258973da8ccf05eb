"""GPTVQ on codebooks: errors of a block of columns are fed back to the later columns, and codebooks are fitted to the result."""

from __future__ import annotations

from rwkvquant.recipes import codebook
from rwkvquant.recipes.hybrids import refuse_order_of_codebooks
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import ACT_ORDER, CLIP_SEARCH, FALL_BACK, shared
from rwkvquant.recipes.recipe import Recipe


def build(said: Said) -> Recipe:
    candidates, chooser = codebook.candidates(said, "gptvq")
    refuse_order_of_codebooks(said, candidates)
    return Recipe(candidates=candidates, chooser=chooser, **shared(said, "gptq"))


METHOD = Method("gptvq", "codebooks with error feedback", (*codebook.OPTIONS, CLIP_SEARCH, ACT_ORDER, FALL_BACK), build)

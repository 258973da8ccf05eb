"""GPTQ on uniform grids: the rounding errors of a column are fed back to the later columns."""

from __future__ import annotations

from rwkvquant.recipes import uniform
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import ACT_ORDER, CLIP_SEARCH, FALL_BACK, shared
from rwkvquant.recipes.recipe import Recipe


def build(said: Said) -> Recipe:
    candidates, chooser = uniform.candidates(said, "gptq")
    return Recipe(candidates=candidates, chooser=chooser, **shared(said, "gptq"))


METHOD = Method("gptq", "uniform grids with error feedback", (*uniform.OPTIONS, CLIP_SEARCH, ACT_ORDER, FALL_BACK), build)

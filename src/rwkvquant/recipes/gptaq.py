"""GPTAQ: GPTQ on uniform grids where later columns also make up for the drift of the input (arXiv:2504.02692; docs/methods/gptaq.md)."""

from __future__ import annotations

from dataclasses import replace

from rwkvquant.recipes import uniform
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import ACT_ORDER, CLIP_SEARCH, CORRECTION, shared
from rwkvquant.recipes.recipe import Recipe

# There is no fall_back: on text kept out, a product that corrects earlier errors is not nearest to its own weights.
OPTIONS = (*(replace(each, default=1.0) if each is CORRECTION else each for each in uniform.OPTIONS), CLIP_SEARCH, ACT_ORDER)


def build(said: Said) -> Recipe:
    candidates, chooser = uniform.candidates(said, "gptaq")
    return Recipe(candidates=candidates, chooser=chooser, **shared(said, "gptq"))


METHOD = Method("gptaq", "GPTQ that aims at the outputs of the full-precision model", OPTIONS, build)

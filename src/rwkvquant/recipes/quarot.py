"""QuaRot's weights: the input of every matrix is rotated by a Hadamard matrix with random signs, then GPTQ (arXiv:2404.00456)."""

from __future__ import annotations

from rwkvquant.recipes import uniform
from rwkvquant.recipes.method import Method, Option, Said
from rwkvquant.recipes.options import ACT_ORDER, CLIP_SEARCH, FALL_BACK, YES_NO, shared
from rwkvquant.recipes.recipe import Recipe

FEEDBACK = Option("feedback", YES_NO, "Feed errors back to later columns, as GPTQ does", True)


def build(said: Said) -> Recipe:
    candidates, chooser = uniform.candidates(said, "gptq" if said.feedback else "rtn")
    return Recipe(candidates=candidates, chooser=chooser, transform="hadamard", **shared(said, "gptq" if said.feedback else "rtn"))


METHOD = Method("quarot", "GPTQ of rotated inputs", (FEEDBACK, *uniform.OPTIONS, CLIP_SEARCH, ACT_ORDER, FALL_BACK), build)

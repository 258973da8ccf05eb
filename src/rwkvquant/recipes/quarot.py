"""QuaRot's weights: the input of every matrix is rotated by a Hadamard matrix with random signs, then GPTQ (arXiv:2404.00456)."""

from __future__ import annotations

from rwkvquant.recipes import uniform
from rwkvquant.recipes.method import Method, Option, Said
from rwkvquant.recipes.options import ACT_ORDER, CLIP_SEARCH, FALL_BACK, YES_NO, shared
from rwkvquant.recipes.recipe import Recipe

FEEDBACK = Option("feedback", YES_NO, "Feed errors back to later columns, as GPTQ does", True)
FOLD = Option("fold", YES_NO, "Fold rotations into the matrix that makes the input, where nothing stands between", True)


def build(said: Said) -> Recipe:
    quantizer = "gptq" if said.feedback else "rtn"
    candidates, chooser = uniform.candidates(said, quantizer)
    return Recipe(candidates=candidates, chooser=chooser, transform="hadamard", folded=said.fold, **shared(said, quantizer))


METHOD = Method("quarot", "GPTQ of rotated inputs", (FEEDBACK, FOLD, *uniform.OPTIONS, CLIP_SEARCH, ACT_ORDER, FALL_BACK), build)

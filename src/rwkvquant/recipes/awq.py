"""AWQ: each column is scaled by the size of its input before it is rounded (arXiv:2306.00978; docs/methods/awq.md)."""

from __future__ import annotations

from rwkvquant.recipes import uniform
from rwkvquant.recipes.method import Method, Option, Said
from rwkvquant.recipes.options import CLIP_SEARCH, YES_NO, shared
from rwkvquant.recipes.recipe import Recipe

FOLD = Option(
    "fold",
    YES_NO,
    "Fold scales into the norm or matrix that makes the input, where nothing stands between; all others are applied at run time",
    True,
)


def build(said: Said) -> Recipe:
    candidates, chooser = uniform.candidates(said, "rtn")
    return Recipe(candidates=candidates, chooser=chooser, transform="column-scale", folded=said.fold, **shared(said, "rtn"))


METHOD = Method("awq", "uniform grids of columns that are scaled by their inputs", (FOLD, *uniform.OPTIONS, CLIP_SEARCH), build)

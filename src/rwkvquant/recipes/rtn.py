"""RTN: every weight takes the nearest point of its grid. It reads text only to search ranges with diag(H), or to correct errors."""

from __future__ import annotations

from rwkvquant.recipes import uniform
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import CLIP_SEARCH_PLAIN, shared
from rwkvquant.recipes.recipe import Recipe


def build(said: Said) -> Recipe:
    candidates, chooser = uniform.candidates(said, "rtn")
    calibrated = said.clip_search == "hessian" or said.correction > 0 or said.vector_codebook is not None
    return Recipe(candidates=candidates, chooser=chooser, calibrated=calibrated, **shared(said, "rtn"))


METHOD = Method("rtn", "uniform grids, rounded to the nearest", (*uniform.OPTIONS, CLIP_SEARCH_PLAIN), build)

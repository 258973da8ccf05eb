"""k-means codebooks, weighted by diag(H) in the tuned style. In the paper's style text is read only to correct errors."""

from __future__ import annotations

from rwkvquant.recipes import codebook
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import CLIP_SEARCH, shared
from rwkvquant.recipes.recipe import Recipe


def build(said: Said) -> Recipe:
    candidates, chooser = codebook.candidates(said, "kmeans")
    calibrated = said.style == "tuned" or said.correction > 0 or said.vector_codebook is not None
    return Recipe(candidates=candidates, chooser=chooser, calibrated=calibrated, **shared(said, "rtn"))


METHOD = Method("kmeans", "codebooks, rounded to the nearest", (*codebook.OPTIONS, CLIP_SEARCH), build)

"""RWKVQuant as its authors' command runs it: codebooks where a tensor is incoherent, one grid and one codebook. It takes no bits."""

from __future__ import annotations

from dataclasses import replace

from rwkvquant.codecs import CodebookConfig, GridConfig
from rwkvquant.recipes.hybrids import authors_options, chooser_of
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import shared
from rwkvquant.recipes.recipe import Recipe
from rwkvquant.recipes.setting import Setting

CANDIDATES = (Setting("gptq", GridConfig(3, 64, scale_bits=16)), Setting("gptvq", CodebookConfig(3, 2, 4)))


def build(said: Said) -> Recipe:
    chooser = replace(chooser_of(said), paper_count=True)
    return Recipe(candidates=CANDIDATES, chooser=chooser, measured=True, **shared(said, "gptq"))


METHOD = Method("readme", "exactly the RWKVQuant authors' command", authors_options("incoherence"), build)

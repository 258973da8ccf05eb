"""RWKVQuant as its authors' command runs it: codebooks where a tensor is incoherent, one grid and one codebook. It takes no bits."""

from __future__ import annotations

from rwkvquant.codecs import CodebookConfig, GridConfig
from rwkvquant.recipes.hybrids import authors_options, rule_of
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import shared
from rwkvquant.recipes.recipe import Chooser, Recipe
from rwkvquant.recipes.setting import Setting

CANDIDATES = (Setting("gptq", GridConfig(3, 64, scale_bits=16)), Setting("gptvq", CodebookConfig(3, 2, 4)))


def build(said: Said) -> Recipe:
    rule, proxy = rule_of(said)
    return Recipe(candidates=CANDIDATES, chooser=Chooser(rule, proxy, paper_count=True), measured=True, **shared(said, "gptq"))


METHOD = Method("readme", "exactly the RWKVQuant authors' command", authors_options("incoherence"), build)

"""RWKVQuant as its paper says (arXiv:2505.03803): Algorithm 1 on the two proxies, one grid and one codebook.

`bits` are the paper's own count, a mean over tensors from 3.25 (all VQ) to 3.5 (all SQ). It is not the number of stored bits.
The settings are those that Algorithm 1 implies: docs/methods/selection.md.
"""

from __future__ import annotations

from dataclasses import replace

from rwkvquant.codecs import CodebookConfig, GridConfig
from rwkvquant.errors import ConfigError
from rwkvquant.recipes.hybrids import authors_options, chooser_of
from rwkvquant.recipes.method import Interval, Method, Option, Said
from rwkvquant.recipes.options import shared
from rwkvquant.recipes.recipe import Recipe
from rwkvquant.recipes.setting import Setting

SQ_BITS, VQ_BITS = 3.5, 3.25  # by the paper's count, in which every tensor has the same weight
COARSE = 0.5  # C of Algorithm 1
BITS = Option("bits", Interval(VQ_BITS, SQ_BITS), "The paper's own count, from 3.25 (all VQ) to 3.5 (all SQ)")
CANDIDATES = (Setting("gptq", GridConfig(3, 32, scale_bits=16)), Setting("gptvq", CodebookConfig(3, 4, 4)))


def build(said: Said) -> Recipe:
    chooser = chooser_of(said)
    if said.bits is not None:
        if chooser.rule != "algorithm1":
            raise ConfigError(f"bits of the method paper go with the choice algorithm1; the choice is {chooser.rule}")
        if given := said.given("coarse_share", "fine_share"):
            raise ConfigError(f"bits of the method paper are coarse_share and fine_share in other words; give bits or {given[0]}, not both")
        coarse, fine = shares(said.bits)
        chooser = replace(chooser, coarse_share=coarse, fine_share=fine)
    return Recipe(candidates=CANDIDATES, chooser=replace(chooser, paper_count=True), measured=True, **shared(said, "gptq"))


def shares(bits: float) -> tuple[float, float]:
    """C and F that give this many bits by the paper's own count."""
    share = round((bits - VQ_BITS) / (SQ_BITS - VQ_BITS), 9)
    coarse = max(COARSE, share)
    return coarse, share / coarse


METHOD = Method("paper", "the RWKVQuant paper: Algorithm 1 on its proxies", authors_options("algorithm1", BITS), build)

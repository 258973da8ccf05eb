"""The default: grids and codebooks with error feedback, every candidate measured, and a budget of stored bits.

Pass 1 turns errors into nats per token (calibration/sensitivity.py), so losses of different matrices can be compared, and traded for bytes.
"""

from __future__ import annotations

from dataclasses import replace

from rwkvquant.recipes.candidates import LOW_BUDGET, UNIFORM_BITS, codebooks, grids
from rwkvquant.recipes.hybrids import refuse_order_of_codebooks, rule_of
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import ACT_ORDER, BUDGET, CHOICE, CLIP_SEARCH, COMMON, CORRECTION, FALL_BACK, PROXY, STYLE, budget, shared
from rwkvquant.recipes.recipe import Recipe

OPTIONS = (
    BUDGET,
    STYLE,
    CHOICE,
    PROXY,
    CLIP_SEARCH,
    ACT_ORDER,
    FALL_BACK,
    *(replace(option, default=0.5) if option is CORRECTION else option for option in COMMON),
)


def build(said: Said) -> Recipe:
    low = said.bits <= LOW_BUDGET
    near = range(2, 7) if low else range(4, 9)  # pass 1 has no time to try them all
    if said.tensor_bits:
        near = UNIFORM_BITS  # tensor_bits may ask for any of them
    candidates = grids("gptq", near, said.style) + codebooks("gptvq", wide=not low)
    refuse_order_of_codebooks(said, candidates)
    return Recipe(candidates=candidates, chooser=budget(said, *rule_of(said)), measured=True, **shared(said, "gptq"))


METHOD = Method("rwkvquant", "grids and codebooks, each tensor by its measured loss", OPTIONS, build)

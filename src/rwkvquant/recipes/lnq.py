"""LNQ with GuidedQuant: a table for each row, fitted to the gradients of its group of rows (arXiv:2505.07004; docs/methods/lnq.md)."""

from __future__ import annotations

from dataclasses import replace

from rwkvquant.codecs import RowTablesConfig
from rwkvquant.codecs.rowtables import BITS
from rwkvquant.recipes.method import Method, Option, Said
from rwkvquant.recipes.options import BUDGET, CLIP_SEARCH, CODE_BITS, COMMON, STYLE, budget, one_code, shared
from rwkvquant.recipes.recipe import MOST_GROUPS, Chooser, Recipe
from rwkvquant.recipes.setting import Setting

GROUPS = Option(
    "groups", range(MOST_GROUPS + 1), "Groups of rows, each with the second moments that its gradients weight; 0 is LNQ without guidance", 4
)
OPTIONS = (BUDGET, replace(CODE_BITS, allowed=tuple(BITS)), STYLE, GROUPS, CLIP_SEARCH, *COMMON)


def build(said: Said) -> Recipe:
    bits = one_code(said)
    candidates = tuple(Setting("lnq", RowTablesConfig(each)) for each in (BITS if bits is None else (bits,)))
    chooser = budget(said) if bits is None else Chooser()
    return Recipe(candidates=candidates, chooser=chooser, guided=said.groups, **shared(said, "gptq"))


METHOD = Method("lnq", "a table for each row, by gradients of groups of rows", OPTIONS, build)

"""Qronos: GPTQ on uniform grids whose first column corrects the drift of the input (arXiv:2505.11695; docs/methods/gptaq.md)."""

from __future__ import annotations

from rwkvquant.recipes import uniform
from rwkvquant.recipes.gptaq import OPTIONS
from rwkvquant.recipes.method import Method, Said
from rwkvquant.recipes.options import shared
from rwkvquant.recipes.recipe import Recipe


def build(said: Said) -> Recipe:
    candidates, chooser = uniform.candidates(said, "qronos")
    return Recipe(candidates=candidates, chooser=chooser, **shared(said, "gptq"))


METHOD = Method("qronos", "as gptaq, with the correction in the first column", OPTIONS, build)

"""A method in one file: a budget between the toy codec and grids of 4 bits; the embedding in the toy codec, all else in 16 bits."""

from __future__ import annotations

from rwkvquant import recipes
from rwkvquant.codecs import GridConfig
from rwkvquant.recipes import Interval, Method, Option, Recipe, Said, Setting
from rwkvquant.recipes.options import budget
from tests.extending.toy_codec import TernaryConfig

TERNARY = Setting("nearest", TernaryConfig())
BITS = Option("bits", Interval(1, 8), "Stored bits per weight, between three values and grids of 4 bits", 3.5)
GROUP_SIZE = Option("group_size", (32, 64), "Weights of a grid that share a scale", 64)

TERNARY_EMBEDDING = Option("ternary_embedding", (True, False), "Three values for the embedding too", True)  # no other method has it


def build(said: Said) -> Recipe:
    grid = Setting("gptq", GridConfig(4, said.group_size))
    embedding = (TERNARY,) if said.ternary_embedding else ()
    return Recipe(candidates=(TERNARY, grid), chooser=budget(said), embedding=embedding, **said.always())


METHOD = Method("toy", "three values, or grids of 4 bits", (BITS, GROUP_SIZE, TERNARY_EMBEDDING), build)


def add() -> None:
    recipes.register(METHOD)


def remove() -> None:
    recipes.unregister(METHOD.name)

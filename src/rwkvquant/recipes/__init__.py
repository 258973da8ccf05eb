"""Recipes: what a request becomes. Each method has one file; `recipe_for` asks the method that the request names.

recipe.py       what runs: frozen, complete       method.py       options of a method, and the registry
setting.py      what a matrix may become          candidates.py   what budgets choose from
"""

from rwkvquant.recipes import awq, gptaq, gptq, gptvq, kmeans, lnq, paper, pcdvq, qronos, quarot, readme, rtn, rwkvquant, vptq
from rwkvquant.recipes.method import METHODS, Interval, Method, Option, Said, owners, recipe_for, register, unregister
from rwkvquant.recipes.recipe import Chooser, Recipe
from rwkvquant.recipes.setting import Setting

for _module in (rwkvquant, paper, readme, gptq, rtn, gptvq, kmeans, awq, quarot, gptaq, qronos, lnq, vptq, pcdvq):
    register(_module.METHOD)

__all__ = [
    "METHODS",
    "Chooser",
    "Interval",
    "Method",
    "Option",
    "Recipe",
    "Said",
    "Setting",
    "owners",
    "recipe_for",
    "register",
    "unregister",
]

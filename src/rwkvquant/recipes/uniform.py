"""What gptq and rtn share: a budget that chooses among grids of all widths, or one grid for every matrix."""

from __future__ import annotations

from rwkvquant.codecs import GridConfig
from rwkvquant.recipes.candidates import UNIFORM_BITS, grids
from rwkvquant.recipes.method import Said
from rwkvquant.recipes.options import BUDGET, CODE_BITS, COMMON, GRID, STYLE, budget, one_code
from rwkvquant.recipes.recipe import Chooser
from rwkvquant.recipes.setting import Setting

OPTIONS = (BUDGET, CODE_BITS, STYLE, *GRID, *COMMON)


def candidates(said: Said, quantizer: str) -> tuple[tuple[Setting, ...], Chooser]:
    bits = one_code(said, "group_size", "symmetric", "scale_bits")
    if bits is None:
        return grids(quantizer, UNIFORM_BITS, said.style), budget(said)
    return (Setting(quantizer, GridConfig(bits, said.group_size, said.symmetric, said.scale_bits)),), Chooser()

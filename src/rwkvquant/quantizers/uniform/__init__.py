"""Uniform grids, the papers' SQ: `rtn` rounds every weight alone, `gptq` lets later columns make up for the errors of earlier ones.

methods.py    both, by options            grid.py      how a group of weights finds its scale and zero
rtn.py        round to nearest            gptq.py      error feedback, column by column
update.py     after gptq: scales and codes in turn, to less loss
descent.py    how a code of a grid steps to a better one
rounding_errors.py    what rounding to each of many grids costs, in one pass
"""

from rwkvquant.codecs import GridConfig
from rwkvquant.quantizers.registry import register

register(
    "rtn",
    GridConfig,
    "rwkvquant.quantizers.uniform.methods:quantize_rtn",
    errors="rwkvquant.quantizers.uniform.rounding_errors:rtn_errors",
)
register("gptq", GridConfig, "rwkvquant.quantizers.uniform.methods:quantize_gptq", feedback=True, plain="rtn")

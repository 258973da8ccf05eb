"""Uniform grids, the papers' SQ: `rtn` rounds every weight by itself; in `gptq` later columns make up for the errors of earlier ones.

methods.py    both, by options            grid.py      the scale and zero of each group of weights
rtn.py        round to nearest            gptq.py      error feedback, column by column
update.py     after gptq: scales and codes change in turn, to less loss
descent.py    the step of a code to a better one
rounding_errors.py    the errors of rounding to each of many grids, in one pass
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

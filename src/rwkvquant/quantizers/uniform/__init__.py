"""Uniform grids, the papers' SQ: `rtn` rounds every weight by itself; in `gptq` later columns make up for the errors of earlier ones.
`gptaq` and `qronos` are GPTQ that also makes up for the errors of earlier blocks.

methods.py    all, by options             grid.py      the scale and zero of each group of weights
rtn.py        round to nearest            gptq.py      error feedback, column by column
gptaq.py, qronos.py    what GPTQ gets instead of W, where the input has drifted
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
for _name in ("gptaq", "qronos"):
    register(_name, GridConfig, f"rwkvquant.quantizers.uniform.methods:quantize_{_name}", feedback=True, plain="rtn", drift=True)

"""Directions and magnitudes, PCDVQ: one code for eight neighbouring columns of a row.

methods.py    both methods, by options: `pcdvq` without feedback, as the paper seems to do it, and `ldlq` with
assign.py     the nearest direction of a codebook, for many vectors      levels.py    the levels of the magnitude
plain.py      codes and row scales without feedback                      feedback.py  with feedback, eight columns at a time
"""

from rwkvquant.codecs import PolarConfig
from rwkvquant.quantizers.registry import register

register("pcdvq", PolarConfig, "rwkvquant.quantizers.polar.methods:quantize_plain", work=57_000)
register("ldlq", PolarConfig, "rwkvquant.quantizers.polar.methods:quantize_feedback", feedback=True, plain="pcdvq", work=57_000)

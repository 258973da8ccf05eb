"""Two-dimensional codebooks, the papers' VQ with d = 2: one code for two neighbouring columns. `kmeans` and `gptvq` again.

methods.py       both, by options                       gptvq.py       the method: tables, row scales, codes, rounds
clustering.py    two-dimensional k-means                walk.py        codes with feedback for given tables
descent.py       the step of a code to a better pair    update.py      tables to less loss for given codes
columns.py       blocks of columns in the native module   table_map.py   the linear map from tables to weights
"""

from rwkvquant.codecs import PairConfig
from rwkvquant.quantizers.registry import register

register("kmeans", PairConfig, "rwkvquant.quantizers.pairs.methods:quantize_kmeans", work=25_000)
register("gptvq", PairConfig, "rwkvquant.quantizers.pairs.methods:quantize_gptvq", feedback=True, plain="kmeans", work=25_000)

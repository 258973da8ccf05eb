"""Two-dimensional codebooks, the papers' VQ with d = 2: one code for two neighbouring columns. `kmeans` and `gptvq` again.

methods.py       both, by options                   gptvq.py       tables, row scales, codes with and without feedback
clustering.py    two-dimensional k-means            update.py      tables to less loss for given codes
descent.py       the step of a code to a better pair  table_map.py   the linear map from tables to weights
"""

from rwkvquant.codecs import PairConfig
from rwkvquant.quantizers.registry import register

register("kmeans", PairConfig, "rwkvquant.quantizers.pairs.methods:quantize_kmeans")
register("gptvq", PairConfig, "rwkvquant.quantizers.pairs.methods:quantize_gptvq", feedback=True, plain="kmeans")

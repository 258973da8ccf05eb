"""One table for each row: `kmeans` clusters the weights of a row, `lnq` then minimises the loss.

methods.py    both, by options        kmeans.py    tables, row scales, nearest codes        lnq.py    tables and codes in turn
"""

from rwkvquant.codecs import RowTablesConfig
from rwkvquant.quantizers.registry import register

register("kmeans", RowTablesConfig, "rwkvquant.quantizers.rowtables.methods:quantize_kmeans")
register("lnq", RowTablesConfig, "rwkvquant.quantizers.rowtables.methods:quantize_lnq", feedback=True, plain="kmeans", work=120_000)

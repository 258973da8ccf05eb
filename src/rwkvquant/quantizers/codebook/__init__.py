"""One-dimensional codebooks, the papers' VQ with d = 1: `kmeans` clusters alone, `gptvq` has error feedback.

methods.py              both, by options             kmeans.py     row scales, centroids, nearest codes
gptvq.py                the method with feedback     walk.py       its columns, one after the other
update.py               centroids to less loss, with the codes as they are
descent.py              how a code steps to a better centroid
compressed.py           tables in a basis that all share; factors.py is their arithmetic, compressed_update.py their update
paper.py                both methods as RWKVQuant ran them
table_map.py            the linear map from tables to weights
"""

from rwkvquant.codecs import CodebookConfig
from rwkvquant.quantizers.registry import register

register("kmeans", CodebookConfig, "rwkvquant.quantizers.codebook.methods:quantize_kmeans")
register("gptvq", CodebookConfig, "rwkvquant.quantizers.codebook.methods:quantize_gptvq", feedback=True, plain="kmeans")

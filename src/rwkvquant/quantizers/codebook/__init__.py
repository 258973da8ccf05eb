"""One-dimensional codebooks, the papers' VQ with d = 1: `kmeans` only clusters, `gptvq` has error feedback.

methods.py              both, by options             kmeans.py     row scales, centroids, nearest codes
gptvq.py                the method with feedback     walk.py       rounds its columns, one after the other
update.py               centroids to less loss for given codes
descent.py              the step of a code to a better centroid
compressed.py           tables in a shared basis; factors.py has their arithmetic, compressed_update.py their update
paper.py                both methods as in RWKVQuant
table_map.py            the linear map from tables to weights
"""

from rwkvquant.codecs import CodebookConfig
from rwkvquant.quantizers.registry import register

register("kmeans", CodebookConfig, "rwkvquant.quantizers.codebook.methods:quantize_kmeans", work=57_000)
register("gptvq", CodebookConfig, "rwkvquant.quantizers.codebook.methods:quantize_gptvq", feedback=True, plain="kmeans", work=57_000)

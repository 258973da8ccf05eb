"""Vectors of neighbouring rows, VPTQ: `kmeans` takes the nearest entries, `vptq` feeds errors back to later columns.

vptq.py    both methods        clustering.py    weighted k-means of vectors
"""

from rwkvquant.codecs import VectorsConfig
from rwkvquant.quantizers.registry import register

register("kmeans", VectorsConfig, "rwkvquant.quantizers.vectors.vptq:quantize_kmeans", work=32_000)
register("vptq", VectorsConfig, "rwkvquant.quantizers.vectors.vptq:quantize_vptq", feedback=True, plain="kmeans", work=32_000)

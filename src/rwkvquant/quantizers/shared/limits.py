"""The numbers that a file can hold: scales as float16, centroids as 7 bits."""

from __future__ import annotations

from rwkvquant.codecs import CENTROID_ZERO

SMALLEST_HALF = 2.0**-24  # float16's smallest positive number; a scale is never 0, so nothing is ever divided by 0
LARGEST_HALF = 65504.0
LIMITS = (-CENTROID_ZERO, 127 - CENTROID_ZERO)  # of centroids

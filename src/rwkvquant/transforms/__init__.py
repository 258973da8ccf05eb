"""Transforms of the input of a product; base.py says what a transform is.

none               T = 1
hadamard.py        block-wise Hadamard with random signs
diagonal.py        what the next two have in common
column_scale.py    a factor for each column
column_power.py    a power of two for some columns
column_power_hadamard.py    that, then the Hadamard transform
"""

from rwkvquant.transforms import column_power, column_power_hadamard, column_scale, hadamard
from rwkvquant.transforms.base import NONE, Applied, Transform, register, transform_named, transform_names, unregister

__all__ = [
    "NONE",
    "Applied",
    "Transform",
    "column_power",
    "column_power_hadamard",
    "column_scale",
    "hadamard",
    "register",
    "transform_named",
    "transform_names",
    "unregister",
]

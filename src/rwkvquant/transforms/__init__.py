"""Transforms of the input of a product; base.py says what a transform is.

none        T = 1        hadamard.py    block-wise Hadamard with random signs
"""

from rwkvquant.transforms import hadamard
from rwkvquant.transforms.base import NONE, Applied, Transform, register, transform_named, transform_names, unregister

__all__ = ["NONE", "Applied", "Transform", "hadamard", "register", "transform_named", "transform_names", "unregister"]

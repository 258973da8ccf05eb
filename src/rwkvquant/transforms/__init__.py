"""Transforms of the input of a product (base.py says what one is). Today there is `none`."""

from rwkvquant.transforms.base import Applied, Transform, register, transform_named, transform_names, unregister

__all__ = ["Applied", "Transform", "register", "transform_named", "transform_names", "unregister"]

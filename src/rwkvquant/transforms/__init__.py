"""Transforms of the input of a product (base.py says what a transform is). The only one so far is `none`."""

from rwkvquant.transforms.base import Applied, Transform, register, transform_named, transform_names, unregister

__all__ = ["Applied", "Transform", "register", "transform_named", "transform_names", "unregister"]

"""Images from files, as models read them: single files, sets with labels, and the preprocessing of released models. NumPy only.

`read_image` and `open_image_set` read, `preprocessing_for` says how a model wants its images. `pillow.py` alone imports Pillow.
"""

from rwkvquant.images.image_set import Batch, ImageSet, open_image_set
from rwkvquant.images.pillow import png_bytes, read_image
from rwkvquant.images.preprocessing import Preprocessing, preprocessing_for
from rwkvquant.images.resample import BICUBIC, BILINEAR, resample

__all__ = [
    "BICUBIC",
    "BILINEAR",
    "Batch",
    "ImageSet",
    "Preprocessing",
    "open_image_set",
    "png_bytes",
    "preprocessing_for",
    "read_image",
    "resample",
]

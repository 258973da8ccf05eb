"""Measuring models for images: accuracy on labels, and how quantisation changed what a model predicts (docs/methods/vision.md).

A file for each kind of head, `classes.py`, `pixels.py` and `places.py`: what it predicts, how two predictions differ, and its scores on
labels. `measure.py` runs models over a set of images. `coco.py` alone imports pycocotools.
"""

from rwkvquant.evaluation.images.head import Predictor
from rwkvquant.evaluation.images.measure import Comparison, Measured, compare_many, difference, evaluate

__all__ = ["Comparison", "Measured", "Predictor", "compare_many", "difference", "evaluate"]

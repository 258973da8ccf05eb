"""The forward in torch, for sequences and batches, with dense and quantised weights."""

from rwkvquant.models.few_bits import InputRounding
from rwkvquant.models.image_model import ImageModel
from rwkvquant.models.layers import BlockState, Tap, Weights
from rwkvquant.models.model import ModelState, TorchModel, forward_of
from rwkvquant.models.quantized import QuantizedMatrix, linear
from rwkvquant.models.rounded import RoundedMatrix, rounded
from rwkvquant.models.source import CheckpointSource, PackedSource, WeightSource
from rwkvquant.models.stages import ImageStages, Stages, text_stages

__all__ = [
    "BlockState",
    "CheckpointSource",
    "ImageModel",
    "ImageStages",
    "InputRounding",
    "ModelState",
    "PackedSource",
    "QuantizedMatrix",
    "RoundedMatrix",
    "Stages",
    "Tap",
    "TorchModel",
    "WeightSource",
    "Weights",
    "forward_of",
    "linear",
    "rounded",
    "text_stages",
]

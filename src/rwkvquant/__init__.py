"""Quantise RWKV-6 and RWKV-7 checkpoints into one small packed file, and run it without torch. docs/python.md has every name.

import rwkvquant
rwkvquant.quantize("in.pth", "out.safetensors", rwkvquant.QuantizeRequest(bits=3.275))     # needs torch
model = rwkvquant.load("out.safetensors")                                                # NumPy only
for piece in model.stream("Once upon a time", max_tokens=64):
    print(piece, end="")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rwkvquant.config import CalibrationConfig, QuantizeConfig, QuantizeRequest
from rwkvquant.errors import (
    CalibrationError,
    CheckpointError,
    ClusterError,
    ConfigError,
    FormatError,
    ImageError,
    RwkvQuantError,
    StoppedError,
    TokenizerError,
)

if TYPE_CHECKING:
    from rwkvquant.evaluation.files import compare, compare_images, evaluate, evaluate_images, evaluate_lambada
    from rwkvquant.exporting.layouts import export
    from rwkvquant.pipeline.quantize import quantize
    from rwkvquant.results import (
        ChatResult,
        CheckpointInfo,
        ClassificationScores,
        ClassifyResult,
        CompareResult,
        DetectionScores,
        DetectResult,
        EvaluateResult,
        ExportResult,
        GenerateResult,
        ImageCompareResult,
        LambadaResult,
        PackedInfo,
        QuantizeResult,
        SegmentationScores,
        SegmentResult,
    )
    from rwkvquant.runtime.chat import Chat
    from rwkvquant.runtime.inspection import inspect, verify
    from rwkvquant.runtime.sampling import SamplingConfig
    from rwkvquant.runtime.session import Model, load
    from rwkvquant.runtime.states.files import PackedState, State
    from rwkvquant.runtime.states.pool import Slots
    from rwkvquant.runtime.states.resting import StatePool
    from rwkvquant.runtime.templates import ChatMessage, ChatTemplate, chat_template
    from rwkvquant.runtime.thinking import ChatPiece
    from rwkvquant.runtime.vision import VisionModel

__version__ = "0.1.0"

# Where each of the other public names is. They are imported when they are first used: some need torch, the others must not load it.
_HOMES = {
    "evaluation.files": ("compare", "compare_images", "evaluate", "evaluate_images", "evaluate_lambada"),
    "exporting.layouts": ("export",),
    "pipeline.quantize": ("quantize",),
    "results": (
        "ChatResult",
        "CheckpointInfo",
        "ClassificationScores",
        "ClassifyResult",
        "CompareResult",
        "DetectResult",
        "DetectionScores",
        "EvaluateResult",
        "ExportResult",
        "GenerateResult",
        "ImageCompareResult",
        "LambadaResult",
        "PackedInfo",
        "QuantizeResult",
        "SegmentResult",
        "SegmentationScores",
    ),
    "runtime.chat": ("Chat",),
    "runtime.inspection": ("inspect", "verify"),
    "runtime.sampling": ("SamplingConfig",),
    "runtime.session": ("Model", "load"),
    "runtime.states.files": ("PackedState", "State"),
    "runtime.states.pool": ("Slots",),
    "runtime.states.resting": ("StatePool",),
    "runtime.templates": ("ChatMessage", "ChatTemplate", "chat_template"),
    "runtime.thinking": ("ChatPiece",),
    "runtime.vision": ("VisionModel",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CalibrationConfig",
    "CalibrationError",
    "Chat",
    "ChatMessage",
    "ChatPiece",
    "ChatResult",
    "ChatTemplate",
    "CheckpointError",
    "CheckpointInfo",
    "ClassificationScores",
    "ClassifyResult",
    "ClusterError",
    "CompareResult",
    "ConfigError",
    "DetectResult",
    "DetectionScores",
    "EvaluateResult",
    "ExportResult",
    "FormatError",
    "GenerateResult",
    "ImageCompareResult",
    "ImageError",
    "LambadaResult",
    "Model",
    "PackedInfo",
    "PackedState",
    "QuantizeConfig",
    "QuantizeRequest",
    "QuantizeResult",
    "RwkvQuantError",
    "SamplingConfig",
    "SegmentResult",
    "SegmentationScores",
    "Slots",
    "State",
    "StatePool",
    "StoppedError",
    "TokenizerError",
    "VisionModel",
    "__version__",
    "chat_template",
    "compare",
    "compare_images",
    "evaluate",
    "evaluate_images",
    "evaluate_lambada",
    "export",
    "inspect",
    "load",
    "quantize",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module rwkvquant has no attribute {name}")
    return getattr(importlib.import_module(f"rwkvquant.{_HOME_OF[name]}"), name)

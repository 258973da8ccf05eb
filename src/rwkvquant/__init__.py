"""Quantise RWKV-6 and RWKV-7 checkpoints into one small packed file, and run it without torch.

import rwkvquant
rwkvquant.quantize("in.pth", "out.safetensors", rwkvquant.QuantizeRequest(bits=3.275))     # needs torch
model = rwkvquant.load("out.safetensors")                                                # NumPy only
for piece in model.stream("Once upon a time", max_tokens=64):
    print(piece, end="")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvquant.config import CalibrationConfig, QuantizeConfig, QuantizeRequest
from rwkvquant.errors import RwkvQuantError

if TYPE_CHECKING:
    from rwkvquant.pipeline.quantize import quantize
    from rwkvquant.runtime.session import Model, load

__version__ = "0.1.0"
__all__ = ["CalibrationConfig", "Model", "QuantizeConfig", "QuantizeRequest", "RwkvQuantError", "__version__", "load", "quantize"]


def __getattr__(name: str) -> Any:
    """Import `quantize`, `load` and `Model` when they are first used: `quantize` needs torch, the others must not load it."""
    if name == "quantize":
        from rwkvquant.pipeline.quantize import quantize

        return quantize
    if name in ("load", "Model"):
        from rwkvquant.runtime import session

        return getattr(session, name)
    raise AttributeError(f"module rwkvquant has no attribute {name}")

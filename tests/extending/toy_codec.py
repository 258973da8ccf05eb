"""A codec of weights -1, 0 and 1 times a scale for each row, with its quantiser: all that a new codec must have, in one file.

Registering happens in `add`, so that a test can take it back. A codec that stays calls `register` when its module is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant import codecs, quantizers
from rwkvquant.codecs import Codec, CodecConfig, Packing
from rwkvquant.codecs.packing import Arrays
from rwkvquant.config import require
from rwkvquant.quantizers import QuantizerOptions

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = "ternary.packed"
POWERS = 3 ** np.arange(5)  # five codes of 0 to 2 in a byte: the smallest counts least
LARGEST_BYTE, LARGEST_HALF = 3**5 - 1, 65504.0


@dataclass(frozen=True)
class TernaryConfig(CodecConfig):
    """`bits` is always 2: a code has three values."""

    bits: int = 2

    def __post_init__(self) -> None:
        require("bits", self.bits, (2,))


@dataclass(frozen=True)
class TernaryTensor:
    """signs (rows, cols) int8 of -1, 0 and 1; row_scale (rows,) float16."""

    signs: NDArray[np.int8]
    row_scale: NDArray[np.float16]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.signs.shape

    def decode(self) -> NDArray[np.float32]:
        return self.row_scale.astype(np.float32)[:, None] * self.signs


class TernaryCodec(Codec):
    """Five codes in a byte, rows one after another, the last byte filled up with zeros; then the scales."""

    name, kind = "ternary", "uniform"
    config, tensor = TernaryConfig, TernaryTensor
    layouts = (LAYOUT,)

    def packing(self, config: TernaryConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing(LAYOUT, shape)

    def packing_of(self, tensor: TernaryTensor) -> Packing:
        return Packing(LAYOUT, tensor.shape)

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        rows, cols = packing.shape
        return {"codes": (np.uint8, -(-rows * cols // 5)), "row_scale": (np.float16, rows)}

    def pack(self, packing: Packing, tensor: TernaryTensor) -> dict[str, NDArray[Any]]:
        codes = (tensor.signs.reshape(-1) + 1).astype(np.uint8)
        codes = np.pad(codes, (0, -len(codes) % 5)).reshape(-1, 5)
        return {"codes": (codes * POWERS).sum(1).astype(np.uint8), "row_scale": tensor.row_scale}

    def unpack(self, packing: Packing, arrays: Arrays) -> TernaryTensor:
        rows, cols = packing.shape
        codes = arrays["codes"][:, None] // POWERS % 3
        signs = codes.reshape(-1)[: rows * cols].astype(np.int8).reshape(rows, cols) - np.int8(1)
        return TernaryTensor(signs, arrays["row_scale"][:rows])

    def broken_rule(self, packing: Packing, suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
        return ("codes", f"lie in 0 to {LARGEST_BYTE}") if suffix == "codes" and values.max(initial=0) > LARGEST_BYTE else None


def quantize_ternary(W: Tensor, hessian: Any, config: TernaryConfig, options: QuantizerOptions) -> TernaryTensor:
    """W (rows, cols) -> the least sum (W - Q)^2: of each row the k largest weights, all of one size, are kept.

    With these k the best size is the mean of them, and the sum falls by (their sum)^2 / k, so the best k is seen at a glance.
    """
    sizes = W.abs().double()
    largest = sizes.sort(dim=1, descending=True).values
    sums = largest.cumsum(1)
    counts = sums.new_tensor(range(1, W.shape[1] + 1))
    best = (sums.square() / counts).argmax(1, keepdim=True)
    scale = (sums.gather(1, best) / (best + 1)).clamp(max=LARGEST_HALF)
    signs = W.sign() * (sizes >= largest.gather(1, best))
    return TernaryTensor(signs.cpu().numpy().astype(np.int8), scale[:, 0].cpu().numpy().astype(np.float16))


CODEC = TernaryCodec()


def add() -> None:
    codecs.register(CODEC)
    quantizers.register("nearest", TernaryConfig, quantize_ternary)


def remove() -> None:
    quantizers.unregister(quantizers.quantizer_for("nearest", TernaryConfig))
    codecs.unregister(CODEC)

"""Values that are not quantised.

A file has float16, or float32 where float16 would lose something. Weights of a checkpoint in bfloat16 stay bfloat16 in memory, as uint16
(NumPy has no such type), in a layout that no file has. Packing makes float16 of them, which is finer, or float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import LEAN, Codec, CodecConfig, NativeForm, random_bytes
from rwkvquant.codecs.packing import ALIGNMENT, Arrays, PackedTensor, Packing
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.kernels.bfloat import narrow_exactly, widen_bfloat
from rwkvquant.kernels.product import dense_product

DTYPES: dict[str, Any] = {"f16": np.float16, "f32": np.float32, "bf16": np.uint16}
TILINGS = {np.dtype(dtype): tiling for tiling, dtype in DTYPES.items()}
MAX_NDIM = 4
_CHUNK = 1 << 24


@dataclass(frozen=True)
class DenseConfig(CodecConfig):
    """`bits` 16 (float16) or 32 (float32)."""

    bits: int = 16

    def __post_init__(self) -> None:
        require("bits", self.bits, (16, 32))


@dataclass(frozen=True)
class DenseTensor:
    """Values that are not quantised: float16, or float32 where float16 would lose something; bfloat16 in memory, as uint16."""

    values: NDArray[np.float16] | NDArray[np.float32] | NDArray[np.uint16]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def decode(self) -> NDArray[np.float32]:
        return _float32(self.values)


class DenseCodec(Codec):
    """dense.f16, dense.f32; dense.bf16 in memory only."""

    name = kind = "dense"
    config, tensor = DenseConfig, DenseTensor
    layouts = ("dense.f16", "dense.f32")
    memory_layouts = ("dense.bf16",)
    axes = (1, MAX_NDIM)
    scales_rows = True
    quantizes = False

    def packing(self, config: DenseConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing(f"dense.f{config.bits}", shape)

    def packing_of(self, tensor: DenseTensor) -> Packing:
        return Packing(f"dense.{TILINGS[tensor.values.dtype.newbyteorder('=')]}", tensor.shape)

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        return {"values": (DTYPES[packing.tiling], math.prod(packing.shape))}

    def pack(self, packing: Packing, tensor: DenseTensor) -> dict[str, NDArray[Any]]:
        return {"values": tensor.values.reshape(-1)}

    def unpack(self, packing: Packing, arrays: Arrays) -> DenseTensor:
        return DenseTensor(arrays["values"][: math.prod(packing.shape)].reshape(packing.shape))

    def rows_scaled(self, tensor: DenseTensor, factors: NDArray[np.float32]) -> DenseTensor:
        assert tensor.values.dtype != np.uint16, "bfloat16 is in memory only"
        with np.errstate(over="ignore"):
            scaled = tensor.decode() * factors.reshape(-1, *[1] * (tensor.values.ndim - 1))
            return DenseTensor(scaled.astype(np.float16) if tensor.values.dtype == np.float16 else scaled)

    def rows(self, packed: PackedTensor, ids: Sequence[int]) -> NDArray[np.float32]:
        return _float32(self.unpack(packed.packing, packed.arrays).values[list(ids)])

    def product(self, packed: PackedTensor, x: NDArray[np.float32], int8: bool) -> NDArray[np.float32]:
        return dense_product(self.unpack(packed.packing, packed.arrays).decode(), x)

    def native(self, packing: Packing) -> NativeForm | None:
        bits = 8 * np.dtype(DTYPES[packing.tiling]).itemsize
        return NativeForm("bfloat" if packing.tiling == "bf16" else "dense", {"bits": bits}, int8=False)

    native_rows = native

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        if deviation is None:
            dtype, count = packing.sizes()["values"]
            return {"values": rng.uniform(0, 1, count).astype(dtype)}
        return self._drawn(rng, packing, deviation * rng.standard_normal(256))

    def leaning_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float) -> dict[str, NDArray[Any]]:
        normal = rng.standard_normal(256)
        return self._drawn(rng, packing, deviation * (LEAN + normal - normal.mean()))

    @staticmethod
    def _drawn(rng: np.random.Generator, packing: Packing, numbers: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Values drawn from 256 numbers: they are enough, and quick to draw from."""
        dtype, count = packing.sizes()["values"]
        narrow, values = numbers.astype(np.float16), np.empty(count, dtype)
        for start in range(0, count, _CHUNK):
            part = values[start : start + _CHUNK]
            part[:] = narrow[random_bytes(rng, np.dtype(np.uint8), len(part))]
        return {"values": values}


def exact(values: NDArray[np.float32]) -> PackedTensor:
    """Values as float16 or bfloat16 if that is exact, else float32: a checkpoint takes as much memory as it takes on the disk."""
    narrow = narrow_exactly(np.ascontiguousarray(values, np.float32)).reshape(-1)
    missing = -narrow.nbytes % ALIGNMENT // narrow.itemsize  # the length of an array is a multiple of 64 bytes
    padded = np.concatenate([narrow, np.zeros(missing, narrow.dtype)]) if missing else narrow
    return PackedTensor(Packing(f"dense.{TILINGS[narrow.dtype]}", values.shape), {"values": padded})


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    return widen_bfloat(values) if values.dtype == np.uint16 else values.astype(np.float32)


register(DenseCodec())

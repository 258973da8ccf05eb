"""A .pth of random weights in a released shape, as torch.save would write it. It is written tensor by tensor, with one in memory at a time.

Rows of matrices have a length of about 1, so activations stay near 1 through the model. Columns differ in size, and so do rows, as in
trained models. What the model says means nothing. Values are bfloat16, drawn in the file's order from one seed.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import ZipInfo

import torch
from torch import Tensor

from rwkvquant.architectures import Dims, Role, TensorSpec, architecture
from rwkvquant.architectures.dims import sizes_of

UNEVEN = 0.5  # standard deviation of the logarithm of a column's size


def write_random_pth(path: Path, arch: str, dims: Dims, seed: int = 0) -> None:
    """About two bytes a weight. The same bytes each time, because the zip's members have no date."""
    draws = torch.Generator().manual_seed(seed)
    own = architecture(arch)
    usual = own.usual(dims)
    used = [(name, spec) for name, spec, _ in own.used(dims.layers) if spec.role is not Role.STATE]
    specs = [(name, spec) for name, spec in used if not spec.optional or spec.name in usual]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open(ZipInfo("archive/data.pkl"), "w") as member:
            member.write(_index({name: sizes_of(spec.shape, dims, spec.name) for name, spec in specs}))
        archive.writestr(ZipInfo("archive/byteorder"), "little")
        for key, (_, spec) in enumerate(specs):
            with archive.open(ZipInfo(f"archive/data/{key}"), "w", force_zip64=True) as member:
                values = _draw(spec, sizes_of(spec.shape, dims, spec.name), draws).to(torch.bfloat16).flatten()
                for part in values.split(1 << 24):
                    member.write(part.view(torch.int16).numpy().tobytes())
        archive.writestr(ZipInfo("archive/version"), "3\n")


def _draw(spec: TensorSpec, shape: tuple[int, ...], draws: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=draws)
    if spec.role is Role.NORM:
        return normal.mul_(0.1).add_(0.0 if spec.name.endswith("bias") else 1.0)
    if spec.role is Role.ELEMENTWISE:
        return normal.mul_(0.3).add_(0.5)
    if spec.role is Role.BIAS:
        return normal.mul_(0.5)
    if spec.role is Role.EMBEDDING:
        return normal
    for axis in (-2, -1):
        size = torch.randn(shape[axis], generator=draws).mul_(UNEVEN).exp_()
        normal *= size if axis == -1 else size[:, None]
    inputs = shape[-2] if spec.transposed else shape[-1]
    return normal.mul_(math.exp(-(UNEVEN**2) * 2) / math.sqrt(inputs))


def _index(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """data.pkl: the dict of tensors, each with its own storage."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol=2)
    pickler.dump({name: _Entry(key, shape) for key, (name, shape) in enumerate(shapes.items())})
    return buffer.getvalue()


class _Storage:
    def __init__(self, key: int, numel: int) -> None:
        self.key, self.numel = key, numel


class _Entry:
    """Pickled as a contiguous bfloat16 tensor."""

    def __init__(self, key: int, shape: tuple[int, ...]) -> None:
        self._key, self._shape = key, shape

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(math.prod(self._shape[axis + 1 :]) for axis in range(len(self._shape)))
        storage = _Storage(self._key, math.prod(self._shape))
        return torch._utils._rebuild_tensor_v2, (storage, 0, self._shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.BFloat16Storage, str(value.key), "cpu", value.numel) if isinstance(value, _Storage) else None

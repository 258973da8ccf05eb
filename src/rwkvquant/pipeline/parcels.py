"""A task on its way to another process: a small head, and the numbers of its tensors as buffers that are sent as they are.

torch's own pickle copies a tensor some times, and sends all of the storage that a view is a part of: the whole checkpoint, perhaps.
Here only the numbers of the view travel. They arrive in new memory with the same strides and torch's alignment, as both can decide
which code multiplies them, and so the last bits.

Gives up: pickle runs code. So only what comes from the cluster itself is unpacked, never a file (docs/cluster.md).
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.errors import ConfigError


@dataclass(frozen=True)
class Parcel:
    head: bytes
    buffers: tuple[NDArray[np.uint8], ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.head) + sum(each.nbytes for each in self.buffers)


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        if value.device.type != "cpu":
            raise ConfigError(f"other processes quantise on their CPUs, and the device of this job is {value.device}; use the device cpu")
        return _tensor, (np.ascontiguousarray(value.detach().numpy()), value.shape, value.stride())


def packed(value: Any) -> Parcel:
    """`value`: anything that can be pickled. Its arrays and tensors must not change before the parcel is sent.

    Raises ConfigError for a tensor that is not on the CPU.
    """
    head, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Packer(head, protocol=5, buffer_callback=buffers.append).dump(value)
    return Parcel(head.getvalue(), tuple(np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers))


def unpacked(parcel: Parcel) -> Any:
    return pickle.loads(parcel.head, buffers=parcel.buffers)


def _tensor(values: NDArray[Any], shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    tensor = torch.empty_strided(shape, strides, dtype=torch.from_numpy(np.empty(0, values.dtype)).dtype)
    tensor.numpy()[...] = values.reshape(shape)
    return tensor

"""A .pth file of torch.save: a zip with an index of tensors (data.pkl) and one member for each storage (data/<key>).

Opening reads only the zip directory and the index. The file is mapped once; a tensor's bytes are read when the caller reads it.
Shape, strides and offset of each tensor are checked against its storage before any of its bytes are read.
"""

from __future__ import annotations

import math
import mmap
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.archive import Member, find_members
from rwkvquant.checkpoints.tensor_info import TensorInfo, check_name
from rwkvquant.checkpoints.unpickler import StoredTensor, read_pickle, shown
from rwkvquant.checkpoints.values import DTYPES, as_float32, require_whole
from rwkvquant.checkpoints.wrappers import dict_of_tensors
from rwkvquant.errors import CheckpointError

COUNTER = ".num_batches_tracked"  # of batch norms: an integer that only training uses


class PthFile:
    """A mapped .pth. Raises CheckpointError for anything but a zip with a plain dict of bf16, fp16 and fp32 tensors.

    `meta` is what OpenMMLab's tools put next to the tensors under that name: anything that a pickle may build, not checked; else {}.
    Counters of batch norms are left out.
    """

    format = "pth"
    written_as: str | None = "blinkdl"  # the usual layout of a .pth

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = memoryview(self._mapping)
        self._members = find_members(self._bytes)
        self._root = _root(self._members)
        self._verified: set[str] = set()
        self._stored = self._read_index()
        self.tensors = {name: TensorInfo(name, tensor.dtype, tensor.shape) for name, tensor in self._stored.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor in its stored shape, as a new array. Raises CheckpointError if its bytes were altered or hold NaN or infinity."""
        tensor = self._stored[name]
        code, item = DTYPES[tensor.dtype]
        view: NDArray = np.ndarray(
            tensor.shape,
            code,
            buffer=self._contents(self._data_member(tensor)),
            offset=tensor.offset * item,
            # The stride of an axis of length 1 is never used, so it was not checked, and NumPy refuses to multiply a huge one.
            strides=tuple(stride * item if length > 1 else 0 for length, stride in zip(tensor.shape, tensor.strides, strict=True)),
        )
        return as_float32(name, view, tensor.dtype)

    def _read_index(self) -> dict[str, StoredTensor]:
        order = f"{self._root}/byteorder"  # torch before 2.1 wrote none
        if order in self._members and self._contents(order) != b"little":
            raise CheckpointError("a checkpoint must be little-endian and this one is not; save it again on a little-endian machine")
        index = read_pickle(self._contents(f"{self._root}/data.pkl"))
        if not isinstance(index, dict) or not index:
            raise CheckpointError(f"a checkpoint is a dict of tensors; this file holds {_what_instead(index)}")
        meta = index.get("meta")
        self.meta: dict[Any, Any] = meta if isinstance(meta, dict) else {}
        index = {name: value for name, value in dict_of_tensors(index).items() if not str(name).endswith(COUNTER)}
        for name, value in index.items():
            self._check_within_storage(name, checked_kind(name, value))
        # Tensors may share a storage (a tied head does), but a small file must not become a thousand large tensors in memory.
        claimed = sum(math.prod(tensor.shape) * DTYPES[tensor.dtype][1] for tensor in index.values())
        if claimed > 2 * len(self._bytes):
            raise CheckpointError(f"tensors that share storages may take at most twice the file's size; these take {claimed} bytes")
        return index

    def _check_within_storage(self, name: str, tensor: StoredTensor) -> None:
        """Raises CheckpointError unless every element of the tensor is inside its storage, and the storage fills its zip member."""
        path = self._data_member(tensor)
        if path not in self._members:
            raise CheckpointError(f"the file lacks the data of {name}, the zip member {shown(path)}")
        numel, size = tensor.storage.numel, self._members[path].size
        if numel * DTYPES[tensor.dtype][1] != size:
            raise CheckpointError(
                f"the data of {name} must fill its zip member of {size} bytes; the index of tensors gives it {numel} elements "
                f"of {tensor.dtype}; download or copy the file again"
            )
        if not 1 <= len(tensor.shape) == len(tensor.strides):
            raise CheckpointError(
                f"{name} must have at least one dimension and one stride for each; got {len(tensor.shape)} and {len(tensor.strides)}"
            )
        if min(tensor.shape) < 1 or min(*tensor.strides, tensor.offset) < 0:
            raise CheckpointError(f"{name} must have sizes of at least 1, and an offset and strides of at least 0")
        # The second rule refuses expanded tensors (stride 0): two bytes of a file must not become a gigabyte of memory.
        last = tensor.offset + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
        if last >= numel or math.prod(tensor.shape) > numel:
            raise CheckpointError(f"every element of {name} must be inside its storage of {numel} elements; some are outside")

    def _data_member(self, tensor: StoredTensor) -> str:
        return f"{self._root}/data/{tensor.storage.key}"

    def _contents(self, name: str) -> memoryview:
        """The bytes of a member. Its CRC-32, if the file has one, is checked the first time only: tensors may share a member."""
        require_whole(self._mapping)
        member = self._members[name]
        contents = self._bytes[member.offset : member.offset + member.size]
        if name not in self._verified and member.crc is not None and zlib.crc32(contents) != member.crc:
            raise CheckpointError(f"the file was altered or damaged (checksum of {shown(name)}); download or copy it again")
        self._verified.add(name)
        return contents


def checked_kind(name: object, value: object) -> StoredTensor:
    """`value`, if it is a tensor of a dtype that we read and `name` is a string. Otherwise raises CheckpointError."""
    if not isinstance(name, str):
        raise CheckpointError(f"the keys of a dict of tensors are strings; got a {type(name).__name__}")
    check_name(name)
    if not isinstance(value, StoredTensor):
        kind = "dict, perhaps the checkpoint itself" if isinstance(value, dict) else type(value).__name__
        raise CheckpointError(f"a checkpoint is a plain dict of tensors; here {name!r} is a {kind}; save only the tensors with torch.save")
    if value.dtype not in DTYPES:
        raise CheckpointError(f"tensors must be bfloat16, float16 or float32; {name} is {value.dtype}")
    return value


def _what_instead(index: object) -> str:
    if isinstance(index, dict):
        return "an empty dict"
    return "a single tensor" if isinstance(index, StoredTensor) else f"a {type(index).__name__}"


def _root(members: dict[str, Member]) -> str:
    """The folder of all members: "archive", or the file's name when torch.save wrote it."""
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise CheckpointError("the zip must hold one data.pkl, as torch.save writes; give a .pth checkpoint")
    for name in members:
        if not name.startswith(roots[0] + "/"):
            raise CheckpointError(f"all members of a checkpoint's zip are in one folder, {shown(roots[0])!r}; got {shown(name)!r}")
    return roots[0]

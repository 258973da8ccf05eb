"""A safetensors file, with any tensor names: the length of a JSON header, the header, then the values without gaps.

Opening reads the header. The file is mapped once; a tensor's bytes are read when the caller reads it. The `safetensors` package is
not used: its NumPy interface does not know bfloat16, the dtype of most checkpoints.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.json_object import parse_object
from rwkvquant.checkpoints.tensor_info import TensorInfo, check_name
from rwkvquant.checkpoints.unpickler import MAX_DIMENSIONS, shown
from rwkvquant.checkpoints.values import DTYPES, as_float32, require_whole
from rwkvquant.errors import CheckpointError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20  # a header has 100 to 150 bytes per tensor; the largest RWKV-6 has 1,500 tensors
MAX_SIZE = 1 << 53
OURS = "rwkvquant"
LAYOUT_KEY = "rwkvquant_layout"  # in the metadata of files that `export` writes
PACKED_BEGINS = b'{"__metadata__":{"header_crc32":"'  # as in formats/header.py
KNOWN = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class SafetensorsFile:
    """A mapped file. Raises CheckpointError for a header that breaks a rule, and for tensors that are not bf16, fp16 or fp32."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = memoryview(self._mapping)
        header = self._header()
        metadata = header.pop("__metadata__", {})
        if isinstance(metadata, dict) and metadata.get("format") == OURS:
            raise CheckpointError(self._why_packed())
        written_as = metadata.get(LAYOUT_KEY) if isinstance(metadata, dict) else None
        self.written_as: str | None = written_as if isinstance(written_as, str) else None
        self.tensors: dict[str, TensorInfo] = {}
        self._begins: dict[str, int] = {}
        ranges = []
        for name, entry in header.items():
            self.tensors[name], begin, end = _entry(name, entry)
            self._begins[name] = self._start + begin
            ranges.append((begin, end, name))
        self._check_no_gaps(sorted(ranges))

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor in its stored shape, as a new array. Raises CheckpointError if it holds NaN or infinity.

        The format has no checksums: a weight that was changed to another finite number is not noticed.
        """
        require_whole(self._mapping)
        info = self.tensors[name]
        code, _ = DTYPES[info.dtype]
        stored: NDArray[Any] = np.ndarray(info.shape, code, buffer=self._bytes, offset=self._begins[name])
        return as_float32(name, stored, info.dtype)

    def _header(self) -> dict[str, Any]:
        length = int.from_bytes(self._bytes[:LENGTH_BYTES], "little")
        self._start = LENGTH_BYTES + length
        if len(self._bytes) < self._start:
            raise CheckpointError("the file ends inside its header: it is truncated; download or copy it again")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(f"the header may have at most {MAX_HEADER_BYTES >> 20} MB; got {length >> 20} MB")
        header = parse_object(bytes(self._bytes[LENGTH_BYTES : self._start]), "the header of the safetensors file")
        if not header.keys() - {"__metadata__"}:
            raise CheckpointError("the safetensors file holds no tensors")
        return header

    def _why_packed(self) -> str:
        if bytes(self._bytes[LENGTH_BYTES : LENGTH_BYTES + len(PACKED_BEGINS)]) == PACKED_BEGINS:
            return "this is a file packed by rwkvquant, not a checkpoint; it can be run, compared and exported as it is"
        return (
            "this file was packed by rwkvquant, but another tool wrote it again: the header has lost its checksum and the arrays "
            "may have moved, so it cannot be run; use the original file, or quantize the checkpoint again"
        )

    def _check_no_gaps(self, ranges: list[tuple[int, int, str]]) -> None:
        """A rule of the format: values follow one another, from the header to the end of the file."""
        at = 0
        for begin, end, name in ranges:
            if begin != at:
                raise CheckpointError(f"values follow one another without gaps; {shown(name)} must begin at byte {at}, got {begin}")
            at = end
        available = len(self._bytes) - self._start
        if at > available:
            raise CheckpointError(
                f"the tensors take {at} bytes and the file has {available}: the file is truncated; download or copy it again"
            )
        if at < available:
            raise CheckpointError(
                f"{available - at} bytes after the last tensor ({shown(ranges[-1][2])}) belong to no tensor; download or copy it again"
            )


def _entry(name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    """(tensor, begin, end) of one entry of the header. The offsets are bytes, counted from the end of the header."""
    check_name(name)
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape", ""), fields.get("data_offsets", "")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"the header must give each tensor a dtype, a shape and two offsets; {name} has something else")
    if dtype not in KNOWN:
        raise CheckpointError(f"tensors must be bfloat16, float16 or float32; {name} is {shown(dtype)}")
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
        raise CheckpointError(f"{name} must have 1 to {MAX_DIMENSIONS} dimensions with sizes of at least 1; got {shown(str(shape))}")
    size = math.prod(shape) * DTYPES[KNOWN[dtype]][1]
    begin, end = offsets
    if end - begin != size:
        raise CheckpointError(f"{name} takes {size} bytes by its shape and dtype, but {end - begin} by its offsets")
    return TensorInfo(name, KNOWN[dtype], tuple(shape)), begin, end


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < MAX_SIZE for item in value)

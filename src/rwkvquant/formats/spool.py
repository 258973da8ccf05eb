"""The arrays of a packed file while it grows, one after another, until the header that comes before them is known.

Without its own path, the spool is a file without a name next to the output, and the system removes it in every case. With a path it
outlives the process: bytes that `sync` has written to the disk never change, so a process that notes the size can continue from there.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError
from rwkvquant.formats import disk

_COPY_BYTES = 1 << 20


class Spool:
    """`arrays`: name -> (dtype, count), in the order of the file."""

    def __init__(self, output: Path, path: Path | None = None) -> None:
        self.path = path
        self.arrays: dict[str, tuple[np.dtype[Any], int]] = {}
        self.bytes = 0
        self._named, self._advice = (path, disk.GO_ON) if path else (output, disk.TWICE)
        with disk.one_sentence(self._named, self._advice):
            if path is None:
                self._file: BinaryIO = tempfile.TemporaryFile(dir=output.parent)  # noqa: SIM115 (closed by close)
            else:
                self._file = os.fdopen(disk.no_link(str(path), os.O_RDWR | os.O_CREAT), "r+b")

    def put(self, name: str, array: NDArray[Any]) -> None:
        with disk.one_sentence(self._named, self._advice):
            disk.write_all(self._file, array.view(np.uint8).data)
        self.arrays[name] = (array.dtype, array.size)
        self.bytes += array.nbytes

    def sync(self) -> int:
        """Write everything to the disk; returns the number of bytes."""
        with disk.one_sentence(self._named, self._advice):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.bytes

    def restore(self, arrays: Mapping[str, tuple[np.dtype[Any], int]], checksums: Mapping[str, int]) -> None:
        """Continue after these arrays, which an earlier process spooled. Raises FormatError if one is missing or damaged."""
        self._file.seek(0)
        size = 0
        for name, (dtype, count) in arrays.items():
            data = self._file.read(dtype.itemsize * count)
            if len(data) != dtype.itemsize * count or zlib.crc32(data) != checksums[name]:
                self._file.seek(0)
                raise FormatError(f"{self.path}: {name} is damaged or incomplete")
            size += len(data)
        self._file.truncate(size)
        self.bytes, self.arrays = size, dict(arrays)

    def copy_to(self, out: BinaryIO) -> None:
        self._file.flush()
        self._file.seek(0)
        left = self.bytes
        while left:
            chunk = self._file.read(min(_COPY_BYTES, left))
            if not chunk:
                raise FormatError(f"{self._named}: another process made the spool of arrays shorter")
            disk.write_all(out, chunk)
            left -= len(chunk)

    def close(self) -> None:
        with suppress(OSError):  # a full disk may refuse the last buffered bytes again; they are not needed now
            self._file.close()

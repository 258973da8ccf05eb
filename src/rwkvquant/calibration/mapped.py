"""Arrays in mapped files, which outlive the process: written to the disk, checked by a sum, and read again by a later process.

A job that may be killed never overwrites what it needs to continue. `DoubleBuffer` keeps two files: what is complete is read from one,
what comes next is written to the other, and `swap` makes them change places. `state` notes which file is complete. It first writes
the file to the disk, because the note is worth nothing before the data that it describes.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import CalibrationError
from rwkvquant.formats.disk import GO_ON, no_link, one_sentence

_SUM_BYTES = 1 << 24


def map_file(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A mapped file of this shape, with what an earlier process wrote there, else zeros.

    Its space on the disk is reserved now, because a disk that becomes full under a mapping kills the process. Raises CalibrationError
    where the disk has no room.
    """
    size = int(np.prod(shape)) * 4
    kept = path.exists() and path.stat().st_size == size
    try:
        with open(path, "r+b" if kept else "wb", opener=no_link) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        if not kept and not path.is_symlink():
            path.unlink(missing_ok=True)
        raise CalibrationError(
            f"the work directory {path.parent} cannot hold {size / 1e6:.0f} MB of hidden states: {error.strerror or error}. "
            "Try another --work-dir, or fewer --calib-rows"
        ) from error
    return np.memmap(path, np.float32, "r+", shape=shape)


def flush(values: NDArray[np.float32]) -> int:
    """Write a mapped file to the disk, and give its CRC-32. Raises RwkvQuantError if the disk does not take it."""
    assert isinstance(values, np.memmap)
    with one_sentence(Path(str(values.filename)), GO_ON):
        values.flush()
    return checksum(values)


def checksum(values: NDArray[np.float32]) -> int:
    data, crc = values.reshape(-1).view(np.uint8), 0
    for start in range(0, data.size, _SUM_BYTES):
        crc = zlib.crc32(data[start : start + _SUM_BYTES].data, crc)
    return crc


class DoubleBuffer:
    """Two mapped files <name>.0.f32 and <name>.1.f32 of one shape; `now` is complete and read, `next` is being written."""

    def __init__(self, work_dir: Path, name: str, shape: tuple[int, ...]) -> None:
        self._files = [map_file(work_dir / f"{name}.{i}.f32", shape) for i in (0, 1)]
        self._complete = 0

    @property
    def now(self) -> NDArray[np.float32]:
        return self._files[self._complete]

    @property
    def next(self) -> NDArray[np.float32]:
        return self._files[1 - self._complete]

    def swap(self) -> None:
        self._complete = 1 - self._complete

    def state(self) -> dict[str, Any]:
        """Which file is complete, and its CRC-32, after writing it to the disk."""
        return {"file": self._complete, "crc32": flush(self.now)}

    def restore(self, state: dict[str, Any]) -> bool:
        """Go back to what `state` noted; False if that file has changed since."""
        self._complete = int(bool(state["file"]))
        return checksum(self.now) == state["crc32"]

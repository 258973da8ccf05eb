"""Files that are whole or not there, also after a power cut, and the disk's refusals as one sentence."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rwkvquant.errors import RwkvQuantError

GO_ON = "make room and run the same command again: it goes on from the last finished block"


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """What packed files and journals are written by, so that a test can make any write fail."""
    file.write(data)


def replace_file(path: Path, data: bytes) -> None:
    """Written beside, synced, renamed: after a kill or a power cut there is the old file or the new one. Raises RwkvQuantError."""
    beside = path.with_name(f"{path.name}.new")
    with one_sentence(path, GO_ON):
        try:
            with beside.open("wb") as file:
                write_all(file, data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make a new name survive a power cut. Some systems cannot sync a directory; the file itself is safe by then."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def one_sentence(path: Path, advice: str = "the file needs its size twice") -> Iterator[None]:
    """The operating system's refusals as one sentence for the user; `advice` goes with a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            message = f"{path} could not be written: the disk is full ({free / 1e6:.0f} MB left in {path.parent}; {advice})"
            raise RwkvQuantError(message) from None
        raise RwkvQuantError(f"{path} could not be written: {error.strerror or error}") from None

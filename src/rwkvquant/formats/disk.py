"""Write files that are either complete or not there, also after a power cut. Errors of the disk become one sentence.

Every file that is replaced goes through `atomic_write`. In a folder that other users can write to, one of them can put a link where our
file will be. Nothing here follows or removes a link. So an output must not be a link either; the message names the link's target.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rwkvquant.errors import RwkvQuantError

GO_ON = "make room and run the same command again: it goes on from the last finished block"
TWICE = "the file needs its size twice"
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write to a packed file or a journal. It is a function of its own so that a test can make any write fail."""
    file.write(data)


def replace_file(path: Path, data: bytes, again: str | None = None) -> None:
    """`atomic_write` of data that is in memory. Raises RwkvQuantError."""
    with atomic_write(path, again=again, advice=GO_ON) as file:
        write_all(file, data)


@contextmanager
def atomic_write(path: Path, *, again: str | None = None, advice: str = TWICE) -> Iterator[BinaryIO]:
    """A new file next to `path`, synced and renamed to `path` at the end. After a kill or a power cut the old file is there or the new one.

    The new file has a random name, and is removed on any exception. `again` is part of its name instead, for a job that can be repeated:
    the file that a killed process left under that name is then removed. Raises RwkvQuantError if the disk refuses (the message for a
    full disk ends with `advice`), and if `path` is a folder, a device or a link.
    """
    if why := why_no_file(path):
        raise RwkvQuantError(f"{path} could not be written: {why}")
    with one_sentence(path, advice):
        file = _open_next_to(path, again)
        partial = Path(file.name)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A new folder next to `path`, renamed to `path` at the end. On any exception it is removed with its files."""
    with one_sentence(path):
        partial = next_to(path)
        partial.mkdir()
        try:
            yield partial
            sync_directory(partial)
            os.replace(partial, path)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if type(error) is RwkvQuantError:  # a file in it could not be written; the user knows the folder by another name
                raise RwkvQuantError(str(error).replace(str(partial), str(path))) from None
            raise
    sync_directory(path.parent)


def why_no_file(path: Path) -> str | None:
    """Why no file can be written under this name, as the end of a sentence; None if one can."""
    if path.name in ("", "..") or "\0" in str(path):
        return f"{str(path)!r} has no file name at its end"
    if path.is_dir():
        return "it is a directory"
    if path.exists() and not path.is_file():
        return "it is a device or a pipe"
    if path.is_symlink():
        return f"it is a link to {os.readlink(path)}; give the file that it leads to"
    return None


def next_to(path: Path) -> Path:
    """A hidden name in the same folder that cannot be guessed, for a file that will be renamed to `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")


def no_link(path: str, flags: int) -> int:
    """An opener for `open`: a link is refused (OSError), not followed. New files get what the umask allows."""
    return os.open(path, flags | NO_LINK, 0o666)


def _open_next_to(path: Path, again: str | None) -> BinaryIO:
    partial = next_to(path) if again is None else path.with_name(f".{path.name}.{again}.partial")
    if again is not None and os.path.lexists(partial):
        if stat.S_ISREG(partial.lstat().st_mode):
            partial.unlink()
        else:  # a link: none of our processes makes one
            partial = next_to(path)
    return open(partial, "xb", opener=no_link)  # x: never into a file that another process put there


def sync_directory(directory: Path) -> None:
    """Make a new name survive a power cut. Some systems cannot sync a directory; the data of the file is safe already."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def one_sentence(path: Path, advice: str = TWICE) -> Iterator[None]:
    """Turn an OSError into RwkvQuantError with one sentence for the user. For a full disk it ends with `advice`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            message = f"{path} could not be written: the disk is full ({free / 1e6:.0f} MB left in {path.parent}; {advice})"
            raise RwkvQuantError(message) from None
        raise RwkvQuantError(f"{path} could not be written: {error.strerror or error}") from None

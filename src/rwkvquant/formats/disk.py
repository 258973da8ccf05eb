"""Files that are whole or not there, also after a power cut, and the disk's refusals as one sentence.

Every file that is replaced goes through `atomic_write`. In a folder that others may write to, somebody can put a link where a file of
ours will be: nothing here follows one, or removes it. So an output must not be a link either; the sentence names what it leads to.
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
    """What packed files and journals are written by, so that a test can make any write fail."""
    file.write(data)


def replace_file(path: Path, data: bytes, again: str | None = None) -> None:
    """`atomic_write` of data that is in memory. Raises RwkvQuantError."""
    with atomic_write(path, again=again, advice=GO_ON) as file:
        write_all(file, data)


@contextmanager
def atomic_write(path: Path, *, again: str | None = None, advice: str = TWICE) -> Iterator[BinaryIO]:
    """A new file beside `path`, synced and renamed to it at the end: after a kill or a power cut there is the old file or the new one.

    Its name is random, and on any exception it goes away. `again` gives it a name instead, for a job that can be repeated: what a
    killed process left under that name then makes room. Raises RwkvQuantError, one sentence, for a disk that refuses (`advice` goes
    with a full one) and for a path that no file can have: a folder, a device, a link.
    """
    if why := why_no_file(path):
        raise RwkvQuantError(f"{path} could not be written: {why}")
    with one_sentence(path, advice):
        file = _open_beside(path, again)
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
    """A new folder beside `path`, which gets that name at the end; on any exception it goes away with all that is in it."""
    with one_sentence(path):
        partial = beside(path)
        partial.mkdir()
        try:
            yield partial
            sync_directory(partial)
            os.replace(partial, path)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if type(error) is RwkvQuantError:  # a file in it that could not be written; the user knows another name
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


def beside(path: Path) -> Path:
    """A hidden name in the same folder that nobody can guess, for what will be renamed to `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")


def no_link(path: str, flags: int) -> int:
    """An opener for `open`: a link is refused (OSError), not followed. New files get what the umask allows."""
    return os.open(path, flags | NO_LINK, 0o666)


def _open_beside(path: Path, again: str | None) -> BinaryIO:
    partial = beside(path) if again is None else path.with_name(f".{path.name}.{again}.partial")
    if again is not None and os.path.lexists(partial):
        if stat.S_ISREG(partial.lstat().st_mode):
            partial.unlink()
        else:  # a link, and no process of ours makes one
            partial = beside(path)
    return open(partial, "xb", opener=no_link)  # x: never into a file that somebody else put there


def sync_directory(directory: Path) -> None:
    """Make a new name survive a power cut. Some systems cannot sync a directory; the file itself is safe by then."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def one_sentence(path: Path, advice: str = TWICE) -> Iterator[None]:
    """The operating system's refusals as one sentence for the user; `advice` goes with a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            message = f"{path} could not be written: the disk is full ({free / 1e6:.0f} MB left in {path.parent}; {advice})"
            raise RwkvQuantError(message) from None
        raise RwkvQuantError(f"{path} could not be written: {error.strerror or error}") from None

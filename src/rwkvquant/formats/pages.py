"""Where the bytes of an open packed file are: in a mapping of the file, or in a copy on huge pages.

    map     The file is mapped. Processes that open it share its memory, and the system may take pages back at any time. The system puts
            the file into memory in pages of 4 KiB, often far from one another. Then reading is slow: measured down to 0.4 of the speed.
            If the file becomes shorter, reading it ends the process (SIGBUS), so the length is asked before each use.
    huge    The file is read once into private memory, for which the system is asked for huge pages (2 MiB). Nothing that happens to the
            file later can do harm. Linux only. Each process has its own copy: two that should share one choose `map`.
    auto    `huge` where the system has huge pages and enough memory is free, otherwise `map`.

The copy is made with `preadv` into the huge pages, by several threads, and not by mapping the file and copying from there. So no page of
the file is ever part of this process: its peak memory is one file and not two, there is nothing to release, and a file that becomes
shorter while it is read is an error and not SIGBUS. The system's cached file stays, for the next process; it gives it up when memory
is needed. All checks of the reader are done on the bytes that are held.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from rwkvquant import system
from rwkvquant.errors import ConfigError, FormatError

PAGES = ("auto", "huge", "map")
PIECE = 16 << 20  # bytes that a thread reads at a time; a multiple of a huge page, so no page has two threads
THREADS = 4  # more do not read faster from a disk, and two already read cached files at 5 GB/s
SPARE = 512 << 20  # bytes that must stay free after the copy, besides a tenth of it


@dataclass(frozen=True)
class Held:
    """Where the weights of a model are.

    pages           "huge" or "map"
    file_bytes      the file's size
    resident_bytes  of these in memory, and
    huge_bytes      in huge pages; both None where the system does not say
    why_not_huge    with "map", if huge pages could not be had: the reason, as the end of a sentence
    """

    pages: Literal["huge", "map"]
    file_bytes: int
    resident_bytes: int | None
    huge_bytes: int | None
    why_not_huge: str | None = None

    @property
    def huge_share(self) -> float | None:
        """Of what is in memory, the share in huge pages."""
        if self.huge_bytes is None or not self.resident_bytes:
            return None
        return self.huge_bytes / self.resident_bytes

    def __str__(self) -> str:
        share = "" if self.huge_share is None else f", {100 * self.huge_share:.0f} % in huge pages"
        reason = "" if self.why_not_huge is None else f"; not copied, because {self.why_not_huge}"
        return ("copied into memory" if self.pages == "huge" else "mapped from the file") + share + reason


class Contents(Protocol):
    """The bytes of an open file. Views of `data` keep them alive."""

    data: memoryview

    def is_whole(self) -> bool:
        """False if the file became shorter, and so `data` must not be read."""
        ...

    def held(self) -> Held: ...


def hold(path: Path, pages: str) -> Contents:
    """The bytes of a file that is not empty. `pages` as in the module's docstring.

    Raises ConfigError for other `pages` and for "huge" where it cannot be had; FormatError, without the file's name, for an empty file and
    one that becomes shorter meanwhile; OSError.
    """
    if pages not in PAGES:
        raise ConfigError(f"pages must be one of {', '.join(PAGES)}; got {pages}")
    why = None
    if pages != "map":
        why = system.why_no_huge_pages() or _why_no_room(path.stat().st_size)
        if why is None:
            try:
                return Copied(path)
            except _NoRoomError:
                why = "the system refuses so much memory"
        if pages == "huge":
            raise ConfigError(f"{path}: cannot be copied into huge pages: {why}. Try --pages map, or leave --pages out")
    return Mapped(path, why)


class Mapped:
    """A mapping of the file."""

    def __init__(self, path: Path, why_not_huge: str | None = None) -> None:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError("is empty")
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.data, self._why = memoryview(self._mapping), why_not_huge

    def is_whole(self) -> bool:
        return self._mapping.size() >= len(self.data)

    def held(self) -> Held:
        return _held("map", self.data, self._why)


class Copied:
    """A copy in private memory, on huge pages as far as the system has them."""

    def __init__(self, path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise FormatError("is empty")
            data = huge_memory(size)
            _read_all(file.fileno(), data)
        self.data = data.toreadonly()

    def is_whole(self) -> bool:
        return True

    def held(self) -> Held:
        return _held("huge", self.data)


class _NoRoomError(Exception):
    """The system does not give so much memory."""


def huge_memory(size: int) -> memoryview:
    """`size` bytes of private memory that begin at a huge page. Linux is asked for huge pages; where it has none, pages are small."""
    page = system.huge_page_size()
    try:
        memory = mmap.mmap(-1, -(-size // page) * page + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise _NoRoomError from error
    start = -_address(memoryview(memory)) % page
    for advice in ("MADV_HUGEPAGE", "MADV_DONTDUMP"):  # weights are no part of a core dump; and smaps then has a line for them alone
        if hasattr(mmap, advice):
            try:
                memory.madvise(getattr(mmap, advice), start, -(-size // page) * page)
            except OSError:  # a kernel that was built without it
                continue
    return memoryview(memory)[start : start + size]


def _why_no_room(size: int) -> str | None:
    """Why so many bytes should not be copied, as the end of a sentence; None if they may, or if the system does not say."""
    free, needed = system.free_memory(), size + size // 10 + SPARE
    if free is None or free >= needed:
        return None
    return f"{needed >> 20} MiB of memory should be free, and {free >> 20} are"


def _read_all(handle: int, data: memoryview) -> None:
    """Read the file from its beginning into all of `data`. Raises FormatError if it ends before."""

    def piece(start: int) -> None:
        end = min(start + PIECE, len(data))
        while start < end:
            count = os.preadv(handle, [data[start:end]], start)
            if count == 0:
                raise FormatError("became shorter while it was read; wait until it is complete, and open it again")
            start += count

    starts = range(0, len(data), PIECE)
    if len(starts) == 1:
        return piece(0)
    from concurrent.futures import ThreadPoolExecutor  # not needed for a small file, and its import costs milliseconds

    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0)), len(starts))) as pool:
        list(pool.map(piece, starts))


def _held(pages: Literal["huge", "map"], data: memoryview, why_not_huge: str | None = None) -> Held:
    found = system.resident(_address(data), len(data))
    if found is None:
        return Held(pages, len(data), None, None, why_not_huge)
    return Held(pages, len(data), found.bytes, found.huge, why_not_huge)


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)

"""What a hostile file may cost: memory in proportion to its size, and a few seconds of a processor."""

from __future__ import annotations

import faulthandler
import functools
import signal
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

FACTOR = 64  # a one-bit weight is 32 times as large in float32, and a copy or two of the largest tensor is made on the way
SLACK = 16 << 20  # of address space, because allocators ask the system for large pieces
SECONDS = 60  # of processor time: pauses of the whole machine do not count


@contextmanager
def memory_in_proportion(file_bytes: int) -> Iterator[None]:
    """Memory of Python and NumPy is counted by the byte; for the native module the address space is limited (Linux only).

    MemoryError and std::bad_alloc are not RwkvQuantErrors, so code that asks for more fails the test.
    """
    _let_blas_allocate()
    most = FACTOR * file_bytes + (1 << 20)
    tracemalloc.start()
    try:
        with _address_space(most + SLACK):
            yield
        peak = tracemalloc.get_traced_memory()[1]
        assert peak <= most, f"a file of {file_bytes} bytes took {peak} bytes"
    finally:
        tracemalloc.stop()


@contextmanager
def _address_space(more: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@functools.cache
def _let_blas_allocate() -> None:
    """OpenBLAS takes its buffers, 32 MiB and more, at the first product that is not tiny, and ends the process if it cannot."""
    for size in (1, 3, 512):
        for dtype in (np.float32, np.float64):
            W = np.ones((512, 512), dtype)
            _ = W @ np.ones((512, size), dtype), np.ones((size, 512), dtype) @ W.T, W @ np.ones(512, dtype)


@contextmanager
def time_in_bounds() -> Iterator[None]:
    """Ends the process, with a traceback, after too much processor time; a loop inside the native module is ended too (POSIX only)."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    faulthandler.register(signal.SIGPROF, file=sys.__stderr__, chain=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)

"""How fast this machine reads memory and multiplies. Decoding is limited by memory, as it reads every weight once for each token;
prefill and batches are limited by arithmetic, as they multiply with each weight many times.

One native loop only loads, over 1 GiB, far more than any cache, in huge pages if the system has them: in small pages it reads more
slowly. The other multiplies bytes that stay in the first-level cache. Both use as many threads as the engine, because two virtual cores
may share the units of one real core.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.formats.pages import huge_memory
from rwkvquant.kernels import dispatch

BYTES = 1 << 30
PREFETCH = (0, 1024, 2048, 8192)  # bytes ahead; which is fastest differs from CPU to CPU
SECONDS = 0.03  # of multiplying, at least, so that the time to start threads does not count
_LINES = 256
_PRODUCTS = 16384  # a round of native/dot_rate.cpp


class Roofline:
    """The data to read and to multiply, and the threads for it; a context manager. Raises ConfigError without the native module."""

    def __init__(self, threads: int, size: int | None = None) -> None:
        native = dispatch.native_module()
        if native is None:
            raise ConfigError("bench measures the native engine, and the native module is missing. Reinstall rwkvquant")
        self._native = native
        self._threads = threads
        self._memory = np.frombuffer(huge_memory(BYTES if size is None else size), np.uint8)
        self._memory[:] = 1  # so that it has real pages, not one shared page of zeros
        self._bytes = np.full(2048, 3, np.uint8), np.full(512, 5, np.int8)
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Roofline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()

    def read(self, memory: NDArray[np.uint8] | None = None) -> float:
        """Bytes a second of one reading of `memory`, (bytes,), or of the 1 GiB; with the best of the prefetch distances."""
        parts = self.parts(memory)
        best = 0.0
        for ahead in PREFETCH:
            started = time.perf_counter()
            list(self._pool.map(lambda part, ahead=ahead: self._native.read_memory(part, ahead), parts))
            best = max(best, sum(map(len, parts)) / (time.perf_counter() - started))
        return best

    def parts(self, memory: NDArray[np.uint8] | None = None) -> list[NDArray[np.uint8]]:
        """What each thread reads, in whole lines."""
        memory = self._memory if memory is None else memory
        share = len(memory) // self._threads // _LINES * _LINES
        return [memory[i * share : (i + 1) * share] for i in range(self._threads)]

    def multiply(self) -> float:
        """int8 operations a second, a multiplication and an addition being two."""
        rounds, seconds = 64, 0.0
        while seconds < SECONDS:
            rounds *= 2 if seconds > SECONDS / 4 else 4
            started = time.perf_counter()
            list(self._pool.map(lambda _, rounds=rounds: self._native.dot_bytes(*self._bytes, rounds), range(self._threads)))
            seconds = time.perf_counter() - started
        return 2 * _PRODUCTS * rounds * self._threads / seconds

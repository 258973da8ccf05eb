"""How fast this machine reads memory: the measure that decoding is held against, as it reads every weight once a token.

The native read loop does next to nothing but load, over at least 1 GiB, far more than any cache, with as many threads as the engine.
"""

from __future__ import annotations

import mmap
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.kernels import dispatch

BYTES = 1 << 30
PREFETCH = (0, 2048, 8192)  # bytes ahead; which is fastest differs from CPU to CPU
_LINES = 256


class Roofline:
    """Memory to read, and the threads that read it; a context manager. Raises ConfigError where there is no native module."""

    def __init__(self, threads: int, size: int | None = None) -> None:
        native = dispatch.native_module()
        if native is None:
            raise ConfigError("bench measures the native engine, and the native module is missing. Reinstall rwkvquant")
        self._native = native
        size = BYTES if size is None else size
        self._memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        self._memory[:] = 1  # on pages of its own, not on the one page of zeros
        share = size // threads // _LINES * _LINES
        self._parts: list[NDArray[np.uint8]] = [self._memory[i * share : (i + 1) * share] for i in range(threads)]
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Roofline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()

    def read(self) -> float:
        """Bytes a second of one reading, with the best of the prefetch distances."""
        best = 0.0
        for ahead in PREFETCH:
            started = time.perf_counter()
            list(self._pool.map(lambda part, ahead=ahead: self._native.read_memory(part, ahead), self._parts))
            best = max(best, sum(map(len, self._parts)) / (time.perf_counter() - started))
        return best

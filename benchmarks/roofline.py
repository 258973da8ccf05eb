"""How fast one core reads memory on this machine: every speed is compared with this."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant import _native

PREFETCH = (0, 1024, 2048, 8192)  # bytes ahead; which is fastest differs from CPU to CPU


def read_bandwidth(memory: NDArray[np.uint8]) -> float:
    """Bytes a second of the best read loop, with the native body that is set."""
    return len(memory) / min(seconds(lambda: _native.read_memory(memory, ahead)) for ahead in PREFETCH)  # noqa: B023


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this thread: on a shared machine, time that other programs take from the core does not count."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def memory_of(count: int, pages: str) -> NDArray[np.uint8]:
    """(count,) random bytes on pages of 4 KiB, as a mapped file has, or on huge pages if the system has any."""
    memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if pages == "huge" else mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    rng = np.random.default_rng(0)
    for start in range(0, count, 1 << 26):
        part = array[start : start + (1 << 26)]
        part[:] = rng.integers(0, 256, len(part), dtype=np.uint8)
    return array


def conditions() -> dict[str, Any]:
    """The conditions without which a number means nothing."""
    return {
        "cpu": _cpu_model(),
        "isas": _native.available_isas(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": _commit(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']}, family {fields.get('cpu family')} model {fields.get('model')}"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"

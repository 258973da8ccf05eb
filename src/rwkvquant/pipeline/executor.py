"""Who quantises the matrices of a block: this process, or other processes that an executor sends the tasks to.

An executor returns what `perform` returns, in the order of the tasks; it decides where and when that is computed. The bits of a result
depend on the number of threads and on the library that multiplies, so another process calls `same_arithmetic` first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from rwkvquant.pipeline.tasks import Done, Task, perform


class Executor(Protocol):
    """`tasks` is lazy, and each task holds a Hessian: take no more of them than fit in memory."""

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Done, ...]]: ...


class SerialExecutor:
    """One task after the other, in this process. `map` keeps no task: its Hessian is freed before the next task is made."""

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Done, ...]]:
        return map(perform, tasks)


def arithmetic() -> tuple[int, str]:
    """What `same_arithmetic` needs to know of this process."""
    return torch.get_num_threads(), torch.get_float32_matmul_precision()


def same_arithmetic(threads: int, precision: str) -> None:
    """Call it first in a process that performs tasks for another one, with what `arithmetic` returned there."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)

"""Who quantises the matrices of a block: this process, or others that an executor hands the tasks to.

An executor gives back what `perform` gives, in the order of the tasks; where and when that is worked out is its own. The bits of a
result depend on the number of threads and on the library that multiplies, so another process first does as this one: `same_arithmetic`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from rwkvquant.pipeline.tasks import Done, Task, perform


class Executor(Protocol):
    """`tasks` are made as they are asked for, and each holds a Hessian: take no more of them than there is room for."""

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Done, ...]]: ...


class SerialExecutor:
    """One task after the other, here. `map` keeps none of them: the Hessian of one goes before the next is made."""

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Done, ...]]:
        return map(perform, tasks)


def arithmetic() -> tuple[int, str]:
    """What `same_arithmetic` needs to know of this process."""
    return torch.get_num_threads(), torch.get_float32_matmul_precision()


def same_arithmetic(threads: int, precision: str) -> None:
    """Called first in a process that performs tasks for another, with what `arithmetic` gave there."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)

"""Who does the work on single matrices: this process, or other processes that an executor sends it to (cluster.py).

An executor returns what the tasks' `perform` returns, in the order of the tasks; it decides where and when that is computed. The bits of a
result depend on the number of threads and on the library that multiplies, so another process computes inside `same_arithmetic`.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """One task, as plain data: the matrices of one input (tasks.py), or a matrix with the candidates that pass 1 tries (trials.py)."""

    @property
    def name(self) -> str:
        """What is worked on, in a few words."""
        ...

    @property
    def cost(self) -> float:
        """An estimate of the time in any unit, to compare tasks."""
        ...

    def perform(self) -> T_co:
        """A pure function of the data."""
        ...


class Executor(Protocol):
    """`tasks` is lazy, and each task holds a Hessian: take no more of them than fit in memory."""

    def run(self, tasks: Iterable[Work[T]]) -> Iterator[T]: ...


class SerialExecutor:
    """One task after the other, in this process. `map` keeps no task: its Hessian is freed before the next task is made."""

    def run(self, tasks: Iterable[Work[T]]) -> Iterator[T]:
        return map(operator.methodcaller("perform"), tasks)


HERE = SerialExecutor()

_asked = threading.local()


def unwanted() -> bool:
    """Whether the task of this thread should stop, as its result is no longer waited for. Only long tasks ask."""
    return bool(getattr(_asked, "stop", lambda: False)())


@contextmanager
def asking(stop: Callable[[], bool]) -> Iterator[None]:
    """In this context `unwanted` is what `stop` returns, in this thread."""
    _asked.stop = stop
    try:
        yield
    finally:
        del _asked.stop


Arithmetic = tuple[int, str]  # number of threads, precision of float32 products


def arithmetic() -> Arithmetic:
    """What `same_arithmetic` needs to know of this process."""
    return torch.get_num_threads(), torch.get_float32_matmul_precision()


@contextmanager
def same_arithmetic(threads: int, precision: str) -> Iterator[None]:
    """Compute as another process does in which `arithmetic` returned this. For one thread of this process at a time."""
    before = arithmetic()
    set_arithmetic(threads, precision)
    try:
        yield
    finally:
        set_arithmetic(*before)


def set_arithmetic(threads: int, precision: str) -> None:
    """For the rest of this process, and of this thread: OpenMP counts the threads of each thread apart."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)

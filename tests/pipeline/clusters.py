"""Schedulers and workers of dask as processes of this machine, for the tests of clusters."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rwkvquant.pipeline.cluster import Cluster

LONG = 60.0  # seconds that anything may take on a busy machine

# A worker that begins a task, says so in a file, and never ends it: its test knows when to kill it.
STUCK = """
import os, pathlib, time
from rwkvquant.pipeline import tasks
def stuck(task):
    pathlib.Path({begun!r}).write_text(str(os.getpid()))
    time.sleep(3600)
tasks.perform = stuck
"""
# A worker with another NumPy and another torch, on another kind of CPU.
OTHER = """
import numpy
import torch
from rwkvquant.pipeline import environment
numpy.__version__ = "0.1"
torch.__version__ = "2.0"
environment.cpu_name = lambda: "an older one"
"""


# Its children begin with these imported, which takes seconds each time.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["distributed.cli.dask_worker", "distributed.cli.dask_scheduler", "rwkvquant.pipeline.tasks"])


class Process(_server.Process):  # type: ignore[name-defined, misc]
    def wait(self) -> int | None:
        """The exit status; negative is the signal that ended it."""
        self.join()
        return self.exitcode


def dask(what: str, arguments: list[str], log: Path) -> None:
    """`python -m distributed.cli.dask_...`, in this process."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [what, *arguments]
    importlib.import_module(f"distributed.cli.dask_{what}").main()


class LocalCluster:
    """A scheduler on the loopback device. A context: all processes are killed at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.processes: list[Process] = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(folder / "scheduler.json"))
        self.address: str = json.loads(wait_for(folder / "scheduler.json"))["address"]

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def add_worker(self, preload: str = "") -> Process:
        """`preload`: Python that the worker runs first."""
        module = self.folder / f"preload{len(self.processes)}.py"
        module.write_text(preload)
        where = ["--local-directory", str(self.folder), "--preload", str(module)]
        return self._start("worker", self.address, "--no-nanny", "--nthreads", "1", "--memory-limit", "0", *where)

    def _start(self, what: str, *arguments: str) -> Process:
        log = self.folder / f"{what}{len(self.processes)}.log"
        process = Process(target=dask, args=(what, ["--no-dashboard", *arguments], log))
        process.start()
        self.processes.append(process)
        return process


def wait_for(path: Path) -> str:
    """The content of a file, as soon as it has one that is complete."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if path.exists() and (content := path.read_text()):
            return content
        time.sleep(0.02)
    raise TimeoutError(f"there is no {path}")


def known_of(cluster: Cluster) -> int:
    """How many workers it knows, after a look."""
    cluster._workers.look()
    cluster._workers.ended(0.1)
    return len(cluster._workers.known)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)

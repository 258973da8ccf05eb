"""The workers of a dask scheduler: who is there, whether each is like this process, and tasks sent to one of them.

A task is sent by a thread, as each step waits for the network: its parcel goes straight to the worker, the scheduler hears of it, and the
result comes back. The main thread reads how it ended from a queue. When the scheduler no longer lists a worker, its tasks are given up.
cluster.py decides who gets what.

Every worker must have the same of all that results depend on (environment.py). One that has not is refused, and one that comes later is
asked first. Nothing of a checkpoint is on a worker, and nothing stays there between two tasks.
"""

from __future__ import annotations

import logging
import pickle
import queue
import re
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future, Security, get_worker

from rwkvquant.errors import ClusterError
from rwkvquant.pipeline.environment import differences, environment
from rwkvquant.pipeline.executor import Arithmetic, Work, arithmetic, asking, same_arithmetic
from rwkvquant.pipeline.parcels import Parcel, packed, unpacked
from rwkvquant.pipeline.progress import Progress

ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d+")
TROUBLE = 2  # times in a row that a worker is not reached, until it is refused
CONNECT, LOOK, PATIENCE = 10.0, 1.0, 60.0  # seconds: for a scheduler to answer; between two looks at its workers; without any worker
LEAVE = 5.0  # seconds for tasks that are being sent when the job ends
REST = 3.0  # seconds without tasks after trouble: a worker that is dead is no longer listed then
GONE = "start workers and run the same command again: with a work directory it continues after the last finished block"

_one_at_a_time = threading.Lock()  # of a worker's process: the number of threads and the precision of products are those of one task


@dataclass(eq=False)
class Worker:
    """`known`: it has said what it is, and is like this process. `trouble`: times in a row that it was not reached; `since`: the last."""

    address: str
    known: bool = False
    trouble: int = 0
    since: float = -REST


@dataclass(eq=False)
class Attempt:
    """A task sent to a worker, or, without a task, the question what the worker is. At the end it has an `answer` or an `error`."""

    worker: Worker
    work: Work[Any] | None
    future: Future[Any] | None = None
    given_up: bool = False
    answer: Any = None
    error: BaseException | None = None  # of the cluster; errors of a task are in its answer


@dataclass(frozen=True)
class Answer:
    parcel: Parcel | None = None
    error: BaseException | None = None

    def result(self) -> Any:
        """What the task returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        assert self.parcel is not None
        return unpacked(self.parcel)


class Workers:
    """Raises ClusterError for a wrong address, if no scheduler answers there, if no worker does for a minute, and for a refused one."""

    def __init__(self, address: str, progress: Progress) -> None:
        if not ADDRESS.fullmatch(address):
            raise ClusterError(f"a cluster is given as tcp://HOST:PORT or tls://HOST:PORT, as `dask scheduler` shows it; got {address}")
        if address.startswith("tls:") and Security().get_connection_args("client").get("ssl_context") is None:
            raise ClusterError(f"{address} needs certificates, which dask's configuration names (distributed.comm.tls); it names none here")
        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)  # our own sentences say what a user should know
        self._address, self._progress = address, progress
        self._there: dict[str, Worker] = {}
        self._refused: dict[str, str] = {}  # why, by address
        self.attempts: list[Attempt] = []  # that are not at their end
        self._ended = queue.SimpleQueue[Attempt]()
        self._threads: list[threading.Thread] = []
        self._looked, self._last_seen = 0.0, time.monotonic()  # when the scheduler was asked; when there was a worker
        self._began = self._last_seen
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about versions, which are compared below
                self._client = Client(address, timeout=CONNECT, set_as_default=False)
        except Exception as error:  # of the network, of TLS, of dask
            raise ClusterError(
                f"no scheduler answers at {address} ({cause(error)}). Start one with `dask scheduler`, and give the address that it shows"
            ) from None
        try:
            self._meet()
        except BaseException:
            self.close()
            raise

    @property
    def known(self) -> list[Worker]:
        """Those that may be used now."""
        return [worker for worker in self._there.values() if worker.known and time.monotonic() - worker.since > REST]

    def wait_again(self) -> None:
        """A new piece of work begins: its patience with a cluster without workers begins too."""
        self._last_seen = time.monotonic()

    def look(self) -> list[Attempt]:
        """Look who is there, and ask new workers what they are. Gives back the attempts whose worker is lost, which are given up.

        Raises ClusterError if no worker could be used for some time.
        """
        if time.monotonic() - self._looked < LOOK:
            return []
        try:
            there = set(self._client.nthreads())
        except Exception:  # the scheduler is gone, or the network: what was there is lost
            there = set()
        now = self._looked = time.monotonic()
        lost = [self._there.pop(address) for address in self._there.keys() - there]
        for address in sorted(there - self._there.keys() - self._refused.keys()):
            self._there[address] = Worker(address)
            self.send(self._there[address], None)
        if self.known:
            self._last_seen = now
        elif now - self._last_seen > PATIENCE:
            why = "".join(f"; the one at {address} {reason}" for address, reason in self._refused.items())
            raise ClusterError(f"no worker of {self._address} could be used for {PATIENCE:.0f} s{why}. {GONE.capitalize()}")
        return [attempt for attempt in self.give_up([a for a in self.attempts if a.worker in lost]) if attempt.work is not None]

    def send(self, worker: Worker, work: Work[Any] | None, how: Arithmetic | None = None) -> Attempt:
        """Let `worker` perform `work` with the arithmetic `how`; None is that of this thread now."""
        attempt, parcel = Attempt(worker, work), None if work is None else packed(work)
        self.attempts.append(attempt)
        thread = threading.Thread(target=self._try, args=(attempt, parcel, how or arithmetic()), daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()
        return attempt

    def _try(self, attempt: Attempt, parcel: Parcel | None, how: Arithmetic) -> None:
        where: dict[str, Any] = {"workers": [attempt.worker.address]}
        try:
            if parcel is None:
                attempt.future = self._client.submit(_describe, how[0], pure=False, **where)
            else:
                there = self._client.scatter(parcel, direct=True, hash=False, **where)
                if attempt.given_up:
                    return
                attempt.future = self._client.submit(_perform, there, how, pure=False, **where)
                del there, parcel
            if attempt.given_up:
                attempt.future.cancel()
            attempt.answer = attempt.future.result()
        except BaseException as error:
            attempt.error = error
        self._ended.put(attempt)

    def ended(self, timeout: float) -> Attempt | None:
        """An attempt with a task that has ended; None if there is none for some time. Trouble with workers is noted here."""
        try:
            attempt = self._ended.get(timeout=timeout)
        except queue.Empty:
            return None
        if attempt.given_up:
            return None
        self.attempts.remove(attempt)
        worker = attempt.worker
        if attempt.error is not None:
            self._not_reached(worker, attempt.error)
        elif attempt.work is None:
            self._compare(worker, attempt.answer)
        else:
            worker.trouble = 0
        return None if attempt.work is None else attempt

    def _not_reached(self, worker: Worker, error: BaseException) -> None:
        now = time.monotonic()
        if now - worker.since > REST:  # several of its tasks may end at once
            worker.trouble += 1
        worker.since = now
        if not worker.known and isinstance(error, OSError | CancelledError):
            self._there.pop(worker.address, None)  # if it is still there, it is asked again
        elif not worker.known or worker.trouble >= TROUBLE:
            self._refuse(worker, f"cannot be used ({cause(error)})")

    def _compare(self, worker: Worker, answer: Answer) -> None:
        if answer.error is not None:
            self._refuse(worker, f"cannot be used ({cause(answer.error)})")
        elif different := differences(answer.result(), environment(arithmetic()[0])):
            self._refuse(worker, f"would give other bytes: it has {', '.join(different)}")
        else:
            worker.known = True

    def _refuse(self, worker: Worker, why: str) -> None:
        worker.known = False
        if self._there.pop(worker.address, None) is not None:
            self._refused[worker.address] = why
            self._progress.note(f"the worker at {worker.address} {why}; it is not used")

    def _meet(self) -> None:
        """Wait until all workers that are there have said what they are; a minute for those that are busy."""
        told = False
        while not self._there or not all(worker.known for worker in self._there.values()):
            if self.known and time.monotonic() - self._began > PATIENCE:
                return
            self.look()
            if not self._there and not told:
                told = True
                self._progress.note(f"waiting for workers of {self._address}: dask worker {self._address}")
            self.ended(LOOK / 5)
            for address, why in self._refused.items():
                raise ClusterError(f"the worker at {address} {why}. Use the same versions and the same kind of CPU on all machines")

    def give_up(self, attempts: list[Attempt]) -> list[Attempt]:
        """Cancel those that have not ended. A worker finishes the task that it is in, and the result is dropped."""
        for attempt in [each for each in attempts if each in self.attempts]:
            attempt.given_up = True
            self.attempts.remove(attempt)
            if attempt.future is not None:
                with suppress(Exception):
                    attempt.future.cancel()
        return attempts

    def close(self) -> None:
        self.give_up(list(self.attempts))
        end = time.monotonic() + LEAVE
        for thread in self._threads:  # what is sent after the client has left would stay at the scheduler
            thread.join(max(0.0, end - time.monotonic()))
        with suppress(Exception):
            self._client.close(timeout=2)


def cause(error: BaseException) -> str:
    """The first line of an error, with its type where that says more."""
    line = next(iter(str(error).splitlines()), "")
    return line if isinstance(error, OSError) and line else f"{type(error).__name__}: {line}".rstrip(": ")


def _describe(threads: int) -> Answer:
    with _one_at_a_time:
        try:
            return Answer(packed(environment(threads)))
        except Exception as error:
            return Answer(error=_sendable(error))


def _perform(parcel: Parcel, how: Arithmetic) -> Answer:
    """On a worker, in one of its threads."""
    with _one_at_a_time:
        try:
            work = unpacked(parcel)
        except Exception as error:
            return Answer(error=ClusterError(f"a worker cannot read its task ({cause(error)}); does it lack a package?"))
        try:
            with same_arithmetic(*how), asking(_cancelled(get_worker(), get_worker().get_current_task())):
                return Answer(packed(work.perform()))
        except Exception as error:
            return Answer(error=_sendable(error))


def _cancelled(worker: Any, key: str) -> Callable[[], bool]:
    """Whether the scheduler has told `worker` to forget the task `key`, as when the command that waited for it has left."""

    def asked() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return asked


def _sendable(error: Exception) -> Exception:
    """The same error, or one with its text if it cannot be sent. The traceback of the worker is a note of it."""
    error.add_note("on a worker of the cluster:\n" + "".join(traceback.format_tb(error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

"""The work directory of a job that may be killed at any moment: who works in it, what is complete, and what it was made from.

    lock            held by the one process that works here
    plan.json       the journal of pass 1, and its result: kept, so that another budget need not measure again
    journal.json    the journal of pass 2: which blocks are finished
    pass1/ pass2/   the data of the journals: hidden states, gradients, the spool of finished tensors

A journal is replaced as a whole, when its data is on the disk. That data is not overwritten before the next journal is written. A journal
says what the work was made from (fingerprint.py), so another checkpoint, text or option is noticed. Then `resume` "auto" starts again and
says so, and "required" refuses; "never" always starts again. Without a --work-dir all this is in a temporary folder, and is not kept.

Gives up: systems without fcntl (Windows) have no lock.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvquant.config import RESUME
from rwkvquant.errors import ConfigError, StoppedError
from rwkvquant.formats.disk import no_link, replace_file, sync_directory
from rwkvquant.pipeline.fingerprint import differences
from rwkvquant.pipeline.progress import Progress

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

VERSION = 4  # of both journals, and of what the quantisers make of the same options
JOURNALS = ("plan.json", "journal.json")


@dataclass(frozen=True)
class WorkDirectory:
    """`lasting` False: a temporary folder. `stop` is called whenever a journal is written; True stops the job."""

    path: Path
    lasting: bool
    resume: str
    stop: Callable[[], bool]
    progress: Progress

    def journal(self, name: str, made_from: dict[str, Any], may_be_missing: bool = False) -> Journal:
        """What an earlier run of the same job has noted. Raises ConfigError if `resume` is "required" and it cannot continue."""
        if self.resume == "required" and not may_be_missing and not (self.path / name).exists():
            raise ConfigError(f"--resume required: {self.path} has no work that this job could continue. Try --resume auto")
        return Journal(self, name, made_from)

    def folder(self, name: str, keep: bool) -> Path:
        """Emptied first, unless there is something in it to `keep`."""
        if not keep:
            self.clear(name)
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def clear(self, name: str) -> None:
        shutil.rmtree(self.path / name, ignore_errors=True)


class Journal:
    """One JSON file. `state` is what an earlier run noted, or None."""

    def __init__(self, work: WorkDirectory, name: str, made_from: dict[str, Any]) -> None:
        self._work, self._made_from, self.lasting = work, made_from, work.lasting
        self.path = work.path / name
        self.state: dict[str, Any] | None = None
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text())
            version, kept, self.state = content["version"], dict(content["made_from"]), dict(content["state"])
        except (OSError, ValueError, KeyError, TypeError):
            self.start_again("is damaged")
            return
        changed = ["version of the journal"] if version != VERSION else differences(kept, made_from)
        if changed:
            self.start_again(f"was made with another {', '.join(changed)}")

    def note(self, state: dict[str, Any], after: str) -> None:
        """Write down what is complete; the data must be on the disk. Raises StoppedError if the caller asked to stop."""
        if not self._work.lasting:
            return
        content = {"version": VERSION, "made_from": self._made_from, "state": state}
        replace_file(self.path, (json.dumps(content, indent=1) + "\n").encode(), again="new")
        if self._work.stop():
            again = "the same command" + (" with --resume auto" if self._work.resume == "never" else "")
            raise StoppedError(f"stopped after {after}; {again} continues from there (work directory {self._work.path})")

    def start_again(self, why: str) -> None:
        """Forget what was noted, and tell the user `why`, as in "is damaged". Raises ConfigError if `resume` is "required"."""
        if self._work.resume == "required":
            raise ConfigError(f"--resume required: {self.path} {why}. Try --resume auto, which starts again, or another --work-dir")
        self._work.progress.note(f"{self.path} {why}; starting again")
        self.state = None
        self.remove()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)


@contextmanager
def work_directory(
    path: str | Path | None, output: str | Path | None, resume: str, stop: Callable[[], bool], progress: Progress
) -> Iterator[WorkDirectory]:
    """The user's folder, created if needed and locked, or a temporary one next to the output (in the system's if None), removed at the end.

    Raises ConfigError for a path that is a file, and for a folder in which another process works.
    """
    if resume not in RESUME:
        raise ConfigError(f"resume must be one of {', '.join(RESUME)}; got {resume}")
    if path is None:
        if resume == "required":
            raise ConfigError("--resume required goes with --work-dir: without one nothing is kept")
        parent = Path(tempfile.gettempdir()) if output is None else Path(output).parent
        with tempfile.TemporaryDirectory(prefix=".rwkvquant-", dir=parent) as own:
            yield WorkDirectory(Path(own), False, resume, stop, progress)
        return
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"the work directory must be a folder; {path} is a file")
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if resume == "never":
            for name in JOURNALS:
                (path / name).unlink(missing_ok=True)
            sync_directory(path)
        yield WorkDirectory(path, True, resume, stop, progress)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The kernel releases the lock when the process ends, whatever the reason."""
    with open(path / "lock", "a+", opener=no_link) as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip()
                raise ConfigError(
                    f"another process works in {path}{f' ({who})' if who else ''}. Wait for it, or try another --work-dir"
                ) from None
            except OSError as error:
                raise ConfigError(f"{path} cannot be locked: {error.strerror}. Try a --work-dir on a local disk") from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield

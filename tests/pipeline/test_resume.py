"""A job that dies at any moment goes on to the same bytes, and never from what belongs to another job.

The moments are numbers of Python calls, so they are the same on every machine, however busy: a child counts its calls and sends
itself SIGKILL. That a kernel brings to the disk what was synced, and in that order, cannot be seen from here.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkvquant import QuantizeConfig
from rwkvquant.config import CodebookConfig
from rwkvquant.errors import ConfigError, RwkvQuantError, StoppedError
from rwkvquant.formats import disk
from rwkvquant.pipeline.quantize import plan_only, quantize
from tests.pipeline.toys import Notes, calibration_text, checkpoint_file

KILLS = 20
SMALL = {"layers": 2, "width": 32, "head_size": 8, "hidden": 64, "ranks": dict.fromkeys(("Rw", "Ra", "Rv", "Rg"), 8)}


@pytest.fixture(autouse=True)
def two_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same road with next to nothing to choose from, as it is walked many times."""
    monkeypatch.setattr("rwkvquant.pipeline.settings._bits_near", lambda config: range(3, 4))
    monkeypatch.setattr("rwkvquant.pipeline.settings.WIDE_CODEBOOKS", ())
    monkeypatch.setattr("rwkvquant.pipeline.settings.CODEBOOKS", (CodebookConfig(2, 16),))
    monkeypatch.setattr("rwkvquant.pipeline.settings.GROUP_SIZES", (64,))


class Job:
    """One command: a tiny checkpoint, a text, an output and a work directory."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder, self.work, self.output = folder, folder / "work", folder / "out.safetensors"
        self.source = checkpoint_file(folder, "rwkv7", **SMALL)
        self.calibration = calibration_text(folder, rows=8, length=32)
        self.options: dict[str, object] = {"bits": 6.0, "calibration": self.calibration, **options}

    def run(self, **arguments: object) -> bytes:
        quantize(self.source, self.output, QuantizeConfig(**self.options), **{"work_dir": self.work, **arguments})  # type: ignore[arg-type]
        return self.output.read_bytes()

    def run_until(self, call: int) -> tuple[bool, int]:
        """In a child that kills itself at this call: (whether it died, how many calls it made, if it did not)."""
        counted = self.folder / "calls"
        child = os.fork()
        if child == 0:
            try:
                calls = die_at(call)
                self.run()
                sys.setprofile(None)
                counted.write_text(str(calls[0]))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0, 0 if status else int(counted.read_text())

    def stopped_behind(self, blocks: int) -> str:
        """Run it until it has noted `blocks` more; what it says."""
        asked = iter(range(blocks))
        with pytest.raises(StoppedError) as said:
            self.run(stop=lambda: next(asked, None) is None)
        return str(said.value)


def die_at(call: int) -> list[int]:
    """Count the calls of this process from here on, into the list returned."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    return calls


def test_twenty_kills_at_random_moments_change_no_byte(tmp_path: Path) -> None:
    job, draw = Job(tmp_path), random.Random(0)
    expected = job.run(work_dir=None)
    _, calls = job.run_until(-1)
    kills = 0
    while kills < KILLS:
        job.output.unlink(missing_ok=True)
        died, _ = job.run_until(draw.randrange(1, calls))
        if not died or job.output.exists():  # what has the name is whole, though its writer may have died behind the rename
            assert job.output.read_bytes() == expected
        if not died:
            (job.work / "plan.json").unlink()  # begin with pass 1 again
        kills += died
    assert not job.run_until(-1)[0] and job.output.read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.txt", "calls", "out.safetensors", "rwkv7.pth", "work"]
    assert sorted(path.name for path in job.work.iterdir()) == ["lock", "plan.json"]

"""`bench` and `generate` use the threads that affinity (taskset) and quota leave them, and say the same on any number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from rwkvquant.bench.roofline import Roofline
from rwkvquant.cli.main import run
from rwkvquant.runtime.session import load
from tests.helpers import random_state_dict, write_pth
from tests.runtime.packing import pack_checkpoint
from tests.runtime.test_session import BYTES


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("rwkvquant.bench.measure.Roofline", partial(Roofline, size=1 << 22))
    monkeypatch.setattr("rwkvquant.bench.measure.SECONDS", 0.01)
    write_pth(tmp_path / "m.pth", random_state_dict("rwkv7", layers=2, width=128, head_size=64))
    pack_checkpoint(tmp_path / "m.pth", tmp_path / "m.safetensors", BYTES)
    return tmp_path / "m.safetensors"


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None) -> None:
    monkeypatch.setattr("rwkvquant.runtime.threads.physical_cores", lambda cpus, root: cores)
    monkeypatch.setattr("rwkvquant.runtime.threads.cgroup_quota", lambda root: quota)


def benched(file: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    capsys.readouterr()
    assert run(["bench", str(file), "--rounds", "1", "--prefill", "9", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_bench_uses_the_cores_it_may_and_the_quota_pays_for(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = set()
    for cores, quota, threads in ((3, None, 3), (3, 2.5, 2), (3, 0.5, 1), (1, 8.0, 1)):
        machine(monkeypatch, cores, quota)
        found = benched(file, capsys)
        assert found["threads"] == threads
        hashes.add(found["logits_hash"])
    machine(monkeypatch, 3, 1.0)
    asked = benched(file, capsys, "--threads", "3")  # who asks gets them, whatever the quota
    assert asked["threads"] == 3 and hashes == {asked["logits_hash"]}


def test_bench_keeps_to_its_affinity(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert benched(file, capsys)["threads"] == 1
    finally:
        os.sched_setaffinity(0, before)


def test_no_more_threads_are_started_than_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for quota, threads in ((None, 3), (2.0, 2), (1.0, 1)):
        machine(monkeypatch, 3, quota)
        before = len(os.listdir("/proc/self/task"))
        model = load(file)
        model.forward([1, 2, 3])
        assert (model.threads, len(os.listdir("/proc/self/task")) - before) == (threads, threads - 1)
        del model


def test_generate_on_one_cpu_says_what_it_says_on_all(file: Path) -> None:
    """Under taskset, with the one thread that is right there, and with three that have to take turns."""
    one = {min(os.sched_getaffinity(0))}
    said = []
    for narrow, options in ((False, ()), (True, ()), (True, ("--threads", "3"))):
        job = subprocess.run(
            [sys.executable, "-m", "rwkvquant", "generate", str(file), "-p", "ab", "-n", "12", "--temperature", "0", "--json", *options],
            capture_output=True,
            text=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, one)) if narrow else None,
        )
        assert job.returncode == 0, job.stderr
        said.append(json.loads(job.stdout)["text"])
    assert said[0] == said[1] == said[2]

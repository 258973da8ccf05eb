"""Cells that workers of a cluster make and measure are those that this process makes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from distributed import Client

from rwkvquant.cli.main import run
from rwkvquant.errors import StoppedError
from rwkvquant.lab.run import run_spec
from rwkvquant.lab.spec import read_spec
from rwkvquant.pipeline.cluster import Cluster
from tests.lab.small import SPEC, cells, lasting
from tests.pipeline.clusters import STUCK, LocalCluster, known_of, wait_for, wait_until


def test_cells_are_those_of_a_run_alone_also_when_a_worker_is_killed(folder: Path, local: LocalCluster) -> None:
    """Three workers and four cells, of which two share a work directory. The third worker is killed in the middle of its cell."""
    Path("spec.yaml").write_text(SPEC + "  damped: {method: gptq, bits: 4.5, damping: 0.2}\n")
    begun = folder / "begun"
    victim = local.add_worker(STUCK.format(begun=str(begun)))
    killer = threading.Thread(target=lambda: (wait_for(begun), victim.kill()))
    killer.start()
    said: list[str] = []
    with Cluster(local.address) as cluster:
        wait_until(lambda: known_of(cluster) == 3)
        result = run_spec(read_spec("spec.yaml"), "there", say=said.append, cluster=cluster)
    killer.join()
    assert victim.wait() == -signal.SIGKILL
    assert (result.cells, result.done, result.failed) == (4, 4, ())
    run_spec(read_spec("spec.yaml"), "here")
    assert {name: lasting(cell) for name, cell in cells(Path("there")).items()} == {
        name: lasting(cell) for name, cell in cells(Path("here")).items()
    }
    assert {path.name: path.read_bytes() for path in Path("there/files").iterdir()} == {
        path.name: path.read_bytes() for path in Path("here/files").iterdir()
    }
    assert sum(line.endswith("begun") for line in said) == 5, "one was begun twice"
    assert run_spec(read_spec("spec.yaml"), "there").kept == 4


def test_a_failed_cell_leaves_the_others(folder: Path, local: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    Path("spec.yaml").write_text(SPEC + "  theirs: {file: nowhere.gguf}\n")
    assert run(["lab", "run", "spec.yaml", "--work-dir", "work", "--cluster", local.address]) == 2
    output = capsys.readouterr()
    assert "1 of 4 cells failed; the first: small theirs s0: nowhere.gguf: there is no such file" in output.err
    assert "3 are done now" in output.out


def test_a_stopped_run_leaves_nothing_at_the_scheduler(folder: Path, local: LocalCluster) -> None:
    said: list[str] = []
    with Cluster(local.address) as cluster, pytest.raises(StoppedError, match="stopped before the cells that are left"):
        run_spec(read_spec("spec.yaml"), "work", say=said.append, stop=lambda: len(said) > 0, cluster=cluster)
    with Client(local.address, set_as_default=False) as client:
        wait_until(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0)
        wait_until(lambda: not any(client.run(lambda dask_worker: len(dask_worker.state.tasks)).values()))
    assert run_spec(read_spec("spec.yaml"), "work").cells == 3


def test_workers_without_the_files_are_one_sentence(folder: Path, local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/nowhere")
    with Cluster(local.address) as cluster, pytest.raises(Exception, match="a worker has no folder /nowhere; all machines"):
        run_spec(read_spec("spec.yaml"), "work", cluster=cluster)

"""A cluster gives the same bytes, whatever happens to its workers; one that would not is refused; and nothing is left at the scheduler."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from distributed import Client

from rwkvquant.cli.main import run
from rwkvquant.errors import CheckpointError, ClusterError, ConfigError
from rwkvquant.pipeline import workers
from rwkvquant.pipeline.cluster import Cluster
from rwkvquant.pipeline.progress import Progress, TensorReport
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.pipeline.tasks import Matrix, Task
from rwkvquant.recipes import Recipe
from tests.pipeline.clusters import OTHER, STUCK, LocalCluster, known_of, wait_for, wait_until
from tests.pipeline.toys import TINY, Notes, calibration_text, checkpoint_file, fewest_of, recipe_of


class Names(Notes):
    """Also what is in work."""

    def __init__(self) -> None:
        super().__init__()
        self.in_work: list[str] = []

    def working(self, what: str) -> None:
        self.in_work.append(what)


@dataclass(frozen=True)
class Job:
    source: Path
    recipe: Recipe
    alone: bytes  # the file of the job without a cluster


def made(source: Path, recipe: Recipe) -> Job:
    output = source.parent / "alone.safetensors"
    quantize(source, output, recipe)
    return Job(source, recipe, output.read_bytes())


@pytest.fixture(scope="module")
def gptq(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("gptq")
    recipe = recipe_of(method="gptq", code_bits=3, correction=0.5, calibration=calibration_text(folder, rows=8))
    return made(checkpoint_file(folder, "rwkv7", **TINY), recipe)


@pytest.fixture
def default(tmp_path: Path) -> Job:
    """With its pass 1, text kept out, and codebooks."""
    return made(
        checkpoint_file(tmp_path, "rwkv6", **TINY | {"layers": 1}), fewest_of(bits=4.0, calibration=calibration_text(tmp_path, rows=8))
    )


@pytest.fixture
def scaled(tmp_path: Path) -> Job:
    """With a transform that is fitted to the input."""
    recipe = recipe_of(method="awq", code_bits=4, calibration=calibration_text(tmp_path, rows=4))
    return made(checkpoint_file(tmp_path, "rwkv7", **TINY | {"layers": 1}), recipe)


@pytest.mark.parametrize("name", ["gptq", "default", "scaled"])
def test_the_bytes_are_those_of_a_job_alone(tmp_path: Path, local: LocalCluster, request: pytest.FixtureRequest, name: str) -> None:
    job: Job = request.getfixturevalue(name)
    names, output = Names(), tmp_path / "cluster.safetensors"
    with Cluster(local.address, names) as cluster:
        quantize(job.source, output, job.recipe, executor=cluster, progress=names)
    assert output.read_bytes() == job.alone
    assert any("ffn.value" in what for what in names.in_work), "the name of what is in work is shown"
    assert len(names.reports) == names.expected, "and every tensor is reported"


def test_a_worker_that_is_killed_changes_no_byte(tmp_path: Path, local: LocalCluster, gptq: Job) -> None:
    """Three workers; the third is killed while it works on a matrix of the first block."""
    begun = tmp_path / "begun"
    victim = local.add_worker(STUCK.format(begun=str(begun)))

    def kill() -> None:
        wait_for(begun)
        victim.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    output = tmp_path / "cluster.safetensors"
    with Cluster(local.address) as cluster:
        wait_until(lambda: known_of(cluster) == 3)
        quantize(gptq.source, output, gptq.recipe, executor=cluster)
    killer.join()
    assert victim.wait() == -signal.SIGKILL
    assert output.read_bytes() == gptq.alone


def test_without_workers_a_job_ends_and_can_be_continued_alone(tmp_path: Path, gptq: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    work, output = tmp_path / "work", tmp_path / "cluster.safetensors"
    with LocalCluster(tmp_path / "dask") as local:
        worker = local.add_worker()
        after_block = AfterBlock(lambda: worker.kill())
        with (
            Cluster(local.address) as cluster,
            pytest.raises(ClusterError, match=r"no worker of \S+ could be used for 2 s\. Start workers"),
        ):
            monkeypatch.setattr(workers, "PATIENCE", 2.0)
            quantize(gptq.source, output, gptq.recipe, executor=cluster, work_dir=work, progress=after_block)
    assert not output.exists()
    notes = Notes()
    quantize(gptq.source, output, gptq.recipe, work_dir=work, resume="required", progress=notes)
    assert any("continuing after block 1 of 2" in note for note in notes.notes)
    assert output.read_bytes() == gptq.alone


class AfterBlock(Progress):
    def __init__(self, act) -> None:  # type: ignore[no-untyped-def]
        self.act = act

    def phase(self, what: str, steps: int = 0) -> None:
        if what == "block 2 of 2: quantising":
            self.act()


def test_an_interrupted_job_leaves_nothing_at_the_scheduler(tmp_path: Path, local: LocalCluster, gptq: Job) -> None:
    with pytest.raises(KeyboardInterrupt), Cluster(local.address) as cluster:
        quantize(gptq.source, tmp_path / "out.safetensors", gptq.recipe, executor=cluster, progress=Interrupting())
    with Client(local.address, set_as_default=False) as client:
        wait_until(lambda: client.run_on_scheduler(_tasks) == 0)


class Interrupting(Progress):
    def tensor(self, report: TensorReport) -> None:
        if report.name == "blocks.0.att.w1":
            raise KeyboardInterrupt


def _tasks(dask_scheduler) -> int:  # type: ignore[no-untyped-def]
    return len(dask_scheduler.tasks)


def test_an_error_of_a_task_is_raised_here(local: LocalCluster) -> None:
    recipe = recipe_of(method="gptq", code_bits=3)
    (setting,) = recipe.candidates
    task = Task((Matrix("some.matrix", torch.ones(16, 32), setting),), recipe.quantizer, H=torch.full((32, 32), torch.inf))
    with Cluster(local.address) as cluster, pytest.raises(CheckpointError, match=r"the input of some\.matrix overflows"):
        list(cluster.run([task]))


def test_tensors_of_a_gpu_are_refused(local: LocalCluster) -> None:
    recipe = recipe_of(method="gptq", code_bits=3)
    (setting,) = recipe.candidates
    task = Task((Matrix("some.matrix", torch.ones(16, 32, device="meta"), setting),), recipe.quantizer)
    with Cluster(local.address) as cluster, pytest.raises(ConfigError, match="other processes quantise on their CPUs"):
        list(cluster.run([task]))


def test_a_worker_that_would_give_other_bytes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint_file(tmp_path, "rwkv7", **TINY)
    with LocalCluster(tmp_path / "dask") as local:
        local.add_worker(OTHER)
        assert run(["quantize", str(source), "-o", str(tmp_path / "out.safetensors"), "--method", "rtn", "--cluster", local.address]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the worker at tcp://127.0.0.1:" in error
    assert "would give other bytes: it has torch 2.0 (here" in error
    assert "NumPy 0.1 (here" in error and "CPU an older one (here" in error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://127.0.0.1:1", "no scheduler answers at tcp://127.0.0.1:1"),
        ("127.0.0.1:8786", "a cluster is given as tcp://HOST:PORT"),
        ("tls://127.0.0.1:1", "tls://127.0.0.1:1 needs certificates, which dask's configuration names"),
    ],
)
def test_an_address_without_a_scheduler_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setattr(workers, "CONNECT", 0.5)
    source = checkpoint_file(tmp_path, "rwkv7", **TINY)
    assert run(["quantize", str(source), "-o", str(tmp_path / "out.safetensors"), "--method", "rtn", "--cluster", address]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line

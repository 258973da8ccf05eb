"""A job that is killed at any moment continues to the same bytes, and never from the work of another job.

Whether the kernel writes what was synced, and in that order, cannot be tested here.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rwkvquant.codecs import CodebookConfig, GridConfig
from rwkvquant.errors import ConfigError, RwkvQuantError, StoppedError
from rwkvquant.formats import disk
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import Recipe, Setting
from tests.helpers import killed_at, random_state_dict, write_pth
from tests.pipeline.toys import Notes, calibration_text, checkpoint_file, recipe_of

KILLS = 20
SMALL = {"layers": 2, "width": 32, "head_size": 8, "hidden": 64, "ranks": dict.fromkeys(("Rw", "Ra", "Rv", "Rg"), 8)}


FED_BACK = Setting("gptq", GridConfig(3)), Setting("gptvq", CodebookConfig(2, 16))
NEAREST = Setting("rtn", GridConfig(3)), Setting("kmeans", CodebookConfig(2, 16))  # the same kinds of layouts in half of the time


def two_candidates(candidates: tuple[Setting, ...], **options: Any) -> Recipe:
    """The same job with two candidates: it runs many times."""
    recipe = recipe_of(**options)
    if not recipe.measured or len(recipe.candidates) == 2:
        return recipe
    return replace(recipe, candidates=candidates)


class Job:
    """One command: a tiny checkpoint, a text, an output and a work directory."""

    def __init__(self, folder: Path, candidates: tuple[Setting, ...] = FED_BACK, **options: object) -> None:
        self.candidates = candidates
        self.folder, self.work, self.output = folder, folder / "work", folder / "out.safetensors"
        self.source = checkpoint_file(folder, "rwkv7", **SMALL)
        self.calibration = calibration_text(folder, rows=8, length=32)
        path = Path(str(self.calibration.path))
        path.write_text(path.read_text().replace("cellar. ", "cellar.\n\n<|doc|>\n\n"))  # of many documents, some are kept out
        self.options: dict[str, object] = {"bits": 6.0, "calibration": self.calibration, **options}

    def run(self, **arguments: object) -> bytes:
        recipe = two_candidates(self.candidates, **self.options)
        quantize(self.source, self.output, recipe, **{"work_dir": self.work, **arguments})  # type: ignore[arg-type]
        return self.output.read_bytes()

    def stopped_after(self, notes: int) -> str:
        """Run it until it has written this many notes; the message of its stop."""
        asked = iter(range(1, notes))
        with pytest.raises(StoppedError) as said:
            self.run(stop=lambda: next(asked, None) is None)
        return str(said.value)

    def heard(self, **arguments: object) -> list[str]:
        """Run it to the end; what it reported."""
        notes = Notes()
        self.run(progress=notes, **arguments)
        return notes.notes


class NothingLost(Progress):
    """A job must continue where the one before it was killed: what is left must always be usable."""

    def note(self, sentence: str) -> None:
        if "starting again" in sentence:
            os._exit(3)


@pytest.mark.long
def test_twenty_kills_at_random_moments_change_no_byte(tmp_path: Path) -> None:
    job, draw = Job(tmp_path, NEAREST), random.Random(0)
    expected = job.run(work_dir=None)
    calls = killed_at(-1, lambda: job.run())
    assert calls is not None
    (job.work / "plan.json").unlink()
    kills = 0
    while kills < KILLS:
        job.output.unlink(missing_ok=True)
        died = killed_at(draw.randrange(1, calls), lambda: job.run(progress=NothingLost())) is None
        if not died or job.output.exists():  # a file with this name is whole, even if its writer was killed after the rename
            assert job.output.read_bytes() == expected
        if not died:
            (job.work / "plan.json").unlink()  # begin with pass 1 again
        kills += died
    assert killed_at(-1, lambda: job.run(progress=NothingLost())) and job.output.read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.txt", "out.safetensors", "rwkv7.pth", "work"]
    assert sorted(path.name for path in job.work.iterdir()) == ["lock", "plan.json"]


# Without pass 1, but with both streams of hidden states; and the same without error feedback, which is faster.
PLAIN = {"method": "gptq", "bits": None, "code_bits": 3, "correction": 0.5}
QUICK = PLAIN | {"method": "rtn", "clip_search": "hessian"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, **QUICK)


@pytest.mark.parametrize(
    "options", [PLAIN, {}, {"method": "rtn", "bits": None, "code_bits": 3}], ids=["with text", "with pass 1", "without text"]
)
def test_a_job_that_was_asked_to_stop_does_so_after_any_block_and_continues(tmp_path: Path, options: dict) -> None:
    job = Job(tmp_path, **options)
    expected = job.run(work_dir=None)
    job.output.unlink()
    said = []
    while not job.output.exists():
        try:
            job.run(stop=lambda: True)
        except StoppedError as stopped:
            said.append(str(stopped))
    assert job.output.read_bytes() == expected
    pass_1 = ["the forward run of pass 1", *(f"block {n} of 2 of pass 1, which begins with the last block" for n in (2, 1)), "pass 1"]
    pass_2 = ["the embedding", "block 1 of 2", "block 2 of 2", "the head"]
    told = [sentence.removeprefix("stopped after ").partition(";")[0] for sentence in said]
    assert list(dict.fromkeys(told)) == (pass_2 if options else pass_1 + pass_2)
    assert all(f"the same command continues from there (work directory {job.work})" in sentence for sentence in said)


def test_blocks_that_are_finished_are_not_done_again(job: Job) -> None:
    job.stopped_after(2)
    notes = Notes()
    job.run(progress=notes)
    assert f"continuing after block 1 of 2, from {job.work}" in notes.notes
    assert [phase.split(":")[0] for phase in notes.phases if phase.endswith("quantising")] == ["block 2 of 2"]
    assert notes.blocks == [(1, 2), (2, 2)]
    assert len(notes.reports) == notes.expected and not any(report.name.startswith("blocks.0.att") for report in notes.reports)


def other_checkpoint(job: Job) -> dict:
    write_pth(job.source, random_state_dict("rwkv7", **SMALL, seed=1))  # type: ignore[arg-type]
    return {}


def other_text(job: Job) -> dict:
    path = Path(str(job.calibration.path))
    path.write_text(path.read_text().replace("green", "brown"))
    return {}


CHANGES = {
    "checkpoint": other_checkpoint,
    "calibration text": other_text,
    "damping (0.05, now 0.1)": lambda job: {"damping": 0.1},
    "head (rtn: 6 bits": lambda job: {"head_bits": 5},
    "calibration batch (4, now 2)": lambda job: {"calibration": dataclasses.replace(job.calibration, batch=2)},
    "candidates": lambda job: {"code_bits": 4},
    "forward_dtype (float32, now bfloat16)": lambda job: {"forward_dtype": "bfloat16"},
}


@pytest.mark.parametrize("named", CHANGES)
def test_the_work_of_another_job_is_refused_or_begun_again(job: Job, named: str) -> None:
    job.stopped_after(2)
    job.options |= CHANGES[named](job)
    with pytest.raises(ConfigError) as refused:
        job.run(resume="required")
    assert named in str(refused.value) and "made with another" in str(refused.value) and "--resume auto" in str(refused.value)
    assert not job.output.exists()
    notes = job.heard()
    assert sum(named in note and note.endswith("starting again") for note in notes) == 1
    assert job.output.read_bytes() == job.run(work_dir=None)


@pytest.mark.parametrize("what", ["threads", "torch", "rwkvquant"])
def test_another_build_or_number_of_threads_is_noticed(job: Job, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    job.stopped_after(1)
    change = {
        "threads": ("torch.get_num_threads", lambda: 77),
        "torch": ("torch.__version__", "9.9"),
        "rwkvquant": ("rwkvquant.pipeline.fingerprint.package_version", lambda: "9.9"),
    }
    monkeypatch.setattr(*change[what])
    with pytest.raises(ConfigError, match=rf"another {what} \(.*, now (77|9\.9)\)"):
        job.run(resume="required")


def test_a_plan_of_another_method_is_refused_or_measured_again(tmp_path: Path) -> None:
    job = Job(tmp_path, NEAREST)
    job.run()
    job.options |= {"method": "readme", "bits": None}
    with pytest.raises(ConfigError, match=r"plan\.json was made with another .*method \(rwkvquant, now readme\)"):
        job.run(resume="required")
    assert any("plan.json was made with another" in note for note in job.heard())
    assert job.output.read_bytes() == job.run(work_dir=None)


def test_files_that_moved_but_have_the_same_content_are_the_same_job(job: Job) -> None:
    expected = job.run(work_dir=None)
    job.stopped_after(2)
    job.source = job.source.rename(job.folder / "moved.pth").rename(job.source)
    job.run(resume="required")
    assert job.output.read_bytes() == expected


def test_never_starts_again_from_nothing_and_required_needs_something(job: Job) -> None:
    with pytest.raises(ConfigError, match="no work that this job could continue"):
        job.run(resume="required")
    with pytest.raises(ConfigError, match="goes with --work-dir"):
        job.run(resume="required", work_dir=None)
    with pytest.raises(ConfigError, match="resume must be one of auto, required, never; got perhaps"):
        job.run(resume="perhaps")
    job.stopped_after(2)
    notes = Notes()
    job.run(resume="never", progress=notes)
    assert [phase.split(":")[0] for phase in notes.phases if phase.endswith("quantising")] == ["block 1 of 2", "block 2 of 2"]


DAMAGES = {
    "journal.json": lambda data: data[: len(data) // 2],
    "pass2/spool": lambda data: data[:-100],
    "pass2/hidden.1.f32": lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:],
    "pass2/hidden_carry.f32": lambda data: data[:-4],
    "pass2/reference.1.f32": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("file", DAMAGES)
def test_torn_files_are_noticed(job: Job, file: str) -> None:
    expected = job.run(work_dir=None)
    job.stopped_after(2)
    (job.work / file).write_bytes(DAMAGES[file]((job.work / file).read_bytes()))
    if file != "journal.json":
        with pytest.raises(ConfigError, match=r"--resume required: .*journal\.json does not match the data next to it"):
            job.run(resume="required")
    job.stopped_after(1)
    assert job.run() == expected


def test_a_second_process_on_the_work_directory_is_refused_at_once(job: Job) -> None:
    def second() -> bool:
        with pytest.raises(ConfigError, match=rf"another process works in {job.work} \(process {os.getppid()}\)"):
            plan_only(job.folder / "not even looked at", work_dir=job.work)
        return False

    expected = job.run(work_dir=None)
    assert killed_at(-1, lambda: None)  # a child that ends normally does not release its parent's lock
    assert job.run(stop=lambda: killed_at(-1, second) is None) == expected


def test_a_full_disk_at_any_write_is_one_sentence_and_the_job_continues_when_there_is_room(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, real, room = job.run(work_dir=None), disk.write_all, 5_000
    job.output.unlink()
    sentences = 0
    while not job.output.exists():
        left = room

        def write(file, data) -> None:
            nonlocal left
            left -= len(data)
            if left < 0:
                real(file, memoryview(data)[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            real(file, data)

        with monkeypatch.context() as patch:
            patch.setattr(disk, "write_all", write)
            try:
                job.run()
            except RwkvQuantError as error:
                assert "could not be written: the disk is full" in str(error) and "\n" not in str(error)
                assert not job.output.exists() and not list(job.folder.glob(".*"))
                sentences, room = sentences + 1, room + 12_000
    assert job.output.read_bytes() == expected and sentences > 5

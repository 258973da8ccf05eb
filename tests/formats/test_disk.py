"""A file is replaced as a whole, even if the process dies or the disk refuses."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from rwkvquant.calibration.mapped import map_file
from rwkvquant.errors import RwkvQuantError
from rwkvquant.exporting.layouts import export
from rwkvquant.formats import disk
from rwkvquant.formats.container import ContainerWriter, check_output
from rwkvquant.formats.spool import Spool
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.work_dir import work_directory
from rwkvquant.runtime.session import load
from tests.formats import examples
from tests.helpers import killed_at

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.long
def test_a_kill_at_any_call_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, old, new = tmp_path / "journal.json", b"old" * 9, b"new" * 99
    contents, died = [], True
    while died:
        path.write_bytes(old)
        died = killed_at(2 * len(contents) + 1, lambda: disk.replace_file(path, new)) is None
        contents.append(path.read_bytes())
    assert set(contents) == {old, new} and contents == sorted(contents, reverse=True) and len(contents) > 20


@pytest.mark.parametrize("step", ["rwkvquant.formats.disk.write_all", "os.fsync", "os.replace"])
def test_a_disk_that_refuses_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "journal.json"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(step, refuse)
        with pytest.raises(RwkvQuantError, match=r"journal\.json could not be written: the disk is full .* goes on from the last finished"):
            disk.replace_file(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["journal.json"] and path.read_bytes() == b"old"


def test_a_new_file_gets_what_the_umask_allows(tmp_path: Path) -> None:
    disk.replace_file(tmp_path / "new", b"data")
    (tmp_path / "plain").write_bytes(b"data")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("ours"), OSError(errno.EIO, "Input/output error")])
def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with (
        pytest.raises(RwkvQuantError if isinstance(error, OSError) else type(error), match=str(error.args[-1]) if error.args else None),
        disk.atomic_write(path) as file,
    ):
        file.write(b"half")
        raise error
    assert [each.name for each in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file that no writer gets, in a separate folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    return tmp_path / "home" / "mine"


def save_state(folder: Path) -> None:
    load(DATA / "rwkv7-tiny-rtn4.safetensors", threads=1).initial_state().save(folder / "a.state")


def write_packed(folder: Path) -> None:
    with ContainerWriter(folder / "m.safetensors") as out:
        examples.add_model(out)
        examples.finish(out)


def write_packed_again(folder: Path) -> None:
    """As a job with a work directory does: the unfinished file has the same name each time."""
    (folder / "work").mkdir(exist_ok=True)
    with ContainerWriter(folder / "m.safetensors", folder / "work" / "spool") as out:
        examples.add_model(out)
        examples.finish(out)


WRITERS = {
    "journal": lambda folder: disk.replace_file(folder / "journal.json", b"{}", again="new"),
    "state": save_state,
    "packed file": write_packed,
    "packed file of a job that goes on": write_packed_again,
    "export": lambda folder: export(str(DATA / "rwkv7-tiny-rtn4.safetensors"), str(folder / "x.st"), layout="safetensors"),
    "pth": lambda folder: export(str(DATA / "rwkv7-tiny-rtn4.safetensors"), str(folder / "x.pth")),
    "hf": lambda folder: export(str(DATA / "rwkv7-tiny-rtn4.safetensors"), str(folder / "x"), layout="hf"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_at_the_name_of_the_unfinished_file_is_neither_followed_nor_removed(
    mine: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First collect every name that is used. Then put a link to the file at each of them, and at names that earlier versions used."""
    out, used, real = mine.parents[1] / "out", set(), os.open

    def see(path: str | Path, flags: int, *args: int, **kwargs: int | None) -> int:
        if flags & os.O_CREAT and str(out) in str(path):
            used.add(Path(path).name)
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", see)
        WRITERS[writer](out)
    final = {each.name for each in out.iterdir()}
    planted = (
        {name for name in used if name.endswith(".partial")} | {f".{name}.partial" for name in final} | {f"{name}.new" for name in final}
    )
    planted |= {f".{name}.{os.getpid()}.partial" for name in final}
    shutil.rmtree(out)
    out.mkdir()
    for name in planted:
        (out / name).symlink_to(mine)
    WRITERS[writer](out)
    assert used and mine.read_text() == "mine" and all((out / name).is_symlink() for name in planted)
    assert {each.name for each in out.iterdir()} == final | planted


@pytest.mark.parametrize("name", ["spool", "hidden.f32", "lock"])
def test_a_link_in_a_work_directory_is_refused_and_not_followed(mine: Path, name: str) -> None:
    work = mine.parents[1] / "out"
    (work / name).symlink_to(mine)
    with pytest.raises((RwkvQuantError, OSError)):
        if name == "spool":
            Spool(work / "m.safetensors", work / name)
        elif name == "lock":
            with work_directory(work, None, "auto", lambda: False, Progress()):
                pass
        else:
            map_file(work / name, (4, 4))
    assert mine.read_text() == "mine" and (work / name).is_symlink()


@pytest.mark.parametrize("target", ["file", "nowhere", "device", "pipe"])
def test_an_output_that_is_a_link_is_refused_before_and_after_the_work(mine: Path, target: str) -> None:
    os.mkfifo(mine.parent / "pipe")
    leads_to = {"file": mine, "nowhere": mine.parent / "nowhere", "device": Path("/dev/null"), "pipe": mine.parent / "pipe"}[target]
    link = mine.parents[1] / "out" / "link"
    link.symlink_to(leads_to)
    why = "is a device or a pipe" if target in ("device", "pipe") else f"is a link to {leads_to}; give the file that it leads to"
    with pytest.raises(RwkvQuantError, match=why):
        check_output(link)
    with pytest.raises(RwkvQuantError, match=why):
        disk.replace_file(link, b"new")
    assert link.is_symlink() and mine.read_text() == "mine" and not (mine.parent / "nowhere").exists()


@pytest.mark.parametrize("path", ["", ".", "/", "..", "a\0b"])
def test_a_path_without_a_file_name_is_one_sentence(path: str) -> None:
    with pytest.raises(RwkvQuantError, match="could not be written: "):
        disk.replace_file(Path(path), b"")
    with pytest.raises(RwkvQuantError):
        check_output(path)


def test_files_are_renamed_in_one_place_only() -> None:
    """A new writer that does this by itself would have to be as careful as `atomic_write`."""
    source = Path(disk.__file__).parents[1]
    renaming = [path for path in source.rglob("*.py") if re.search(r"os\.(replace|rename)|\.write_(text|bytes)\(", path.read_text())]
    others = {"runtime/tokenizer_world.py", "serve/states.py"}  # for makers; an upload, in a temporary folder
    assert {path.relative_to(source).as_posix() for path in renaming} == {"formats/disk.py"} | others

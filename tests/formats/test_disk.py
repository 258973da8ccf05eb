"""A file is replaced as a whole, whenever the process that does it dies, and whatever the disk says."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from rwkvquant.errors import RwkvQuantError
from rwkvquant.formats import disk
from tests.helpers import killed_at


def test_a_kill_at_any_call_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, old, new = tmp_path / "journal.json", b"old" * 9, b"new" * 99
    found, died = [], True
    while died:
        path.write_bytes(old)
        died = killed_at(2 * len(found) + 1, lambda: disk.replace_file(path, new)) is None
        found.append(path.read_bytes())
    assert set(found) == {old, new} and found == sorted(found, reverse=True) and len(found) > 20


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

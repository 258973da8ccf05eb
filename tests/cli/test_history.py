"""Typed lines are kept for later chats, for their owner alone, and no file can end a chat."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from rwkvquant.cli.history import LINES, append_lines, history_file, read_lines


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_STATE_HOME", "RWKVQUANT_HISTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def test_the_file_is_in_the_folder_for_states(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert history_file() == home / ".local/state/rwkvquant/history"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert history_file() == home / "Library/Application Support/rwkvquant/history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification says that this counts as unset
    assert history_file() == home / "Library/Application Support/rwkvquant/history"
    monkeypatch.setenv("XDG_STATE_HOME", "/states")
    assert history_file() == Path("/states/rwkvquant/history")
    monkeypatch.setenv("RWKVQUANT_HISTORY", "/other")
    assert history_file() == Path("/other")
    monkeypatch.setenv("RWKVQUANT_HISTORY", "")
    assert history_file() is None


def test_a_user_without_a_home_has_no_history(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nowhere)
    assert history_file() is None


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX file modes")
def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "history"
    before = os.umask(0)
    try:
        append_lines(file, ["a secret"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.chmod(0o644)
    append_lines(file, ["another"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and read_lines(file) == ["a secret", "another"]


def test_two_chats_at_a_time_both_keep_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "history"
    append_lines(file, ["one", "\u4f60\u597d"])
    append_lines(file, ["two", "half a pair \udcff"])
    append_lines(file, [])
    assert read_lines(file) == ["one", "\u4f60\u597d", "two", "half a pair ?"]


def test_the_newest_lines_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "history"
    append_lines(file, [str(i) for i in range(2 * LINES)])
    assert len(file.read_text().split()) == 2 * LINES
    append_lines(file, ["last"])
    assert file.read_text().split() == [*(str(i) for i in range(LINES + 1, 2 * LINES)), "last"] == read_lines(file)


def test_a_file_that_cannot_be_read_is_an_empty_history(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"a\xff\n\n")
    assert read_lines(tmp_path / "binary") == ["a\ufffd"]
    assert read_lines(tmp_path) == read_lines(tmp_path / "gone") == read_lines(Path("a\0b")) == []

"""A spool with a name outlives its process: another writer continues from it, and notices if it has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkvquant.codecs import DenseTensor
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import ContainerWriter
from tests.formats import examples

LAST = "blocks.1.ln1.bias"


def last() -> DenseTensor:
    return DenseTensor(np.arange(32, dtype=np.float32))


def uninterrupted(path: Path) -> bytes:
    with ContainerWriter(path) as out:
        examples.add_model(out)
        out.add(LAST, last(), role="norm", method="dense")
        examples.finish(out)
    return path.read_bytes()


def interrupted(tmp_path: Path) -> str:
    """The state of the first writer, which wrote a little more to the spool before it died."""
    with ContainerWriter(tmp_path / "m.safetensors", tmp_path / "spool") as out:
        examples.add_model(out)
        state = out.state()
        out.add("blocks.1.ln2.bias", last(), role="norm", method="dense")
    return state


def test_another_writer_continues_to_the_same_bytes(tmp_path: Path) -> None:
    expected, state = uninterrupted(tmp_path / "whole"), interrupted(tmp_path)
    with ContainerWriter(tmp_path / "m.safetensors", tmp_path / "spool") as out:
        out.restore(state)
        assert len(out) > 10 and "blocks.1.ln2.bias" not in out
        out.add(LAST, last(), role="norm", method="dense")
        examples.finish(out)
    assert (tmp_path / "m.safetensors").read_bytes() == expected


def test_what_a_killed_writer_left_next_to_the_output_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = interrupted(tmp_path)
    with ContainerWriter(tmp_path / "m.safetensors", tmp_path / "spool") as out, monkeypatch.context() as patch:
        out.restore(state)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed removes nothing
        patch.setattr("os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            examples.finish(out)
    assert len(list(tmp_path.glob(".*.partial"))) == 1
    with ContainerWriter(tmp_path / "m.safetensors", tmp_path / "spool") as out:
        out.restore(state)
        examples.finish(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "spool"]


DAMAGES = {
    "cut": lambda data: data[:-1],
    "empty": lambda data: b"",
    "a flipped bit at the start": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a flipped bit at the end": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "never brought to the disk": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_spool_is_noticed(tmp_path: Path, damage) -> None:
    with ContainerWriter(tmp_path / "m.safetensors", tmp_path / "spool") as out:
        examples.add_model(out)
        state = out.state()
    data = (tmp_path / "spool").read_bytes()
    (tmp_path / "spool").write_bytes(damage(data))
    with (
        ContainerWriter(tmp_path / "m.safetensors", tmp_path / "spool") as out,
        pytest.raises(FormatError, match="is damaged or incomplete"),
    ):
        out.restore(state)

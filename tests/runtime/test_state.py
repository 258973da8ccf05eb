"""A saved state comes back to the bit, and a file that is none is refused before anything is done with it."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from rwkvquant.architectures import ARCHITECTURES, Dims
from rwkvquant.errors import FormatError
from rwkvquant.runtime.states.files import State

DIMS = Dims(layers=2, width=12, hidden=20, vocab=30, heads=3, head_size=4)
ARRAYS = ("att_shift", "ffn_shift", "wkv")


def _state(seed: int = 0) -> State:
    rng, zeros = np.random.default_rng(seed), ARCHITECTURES["rwkv6"].zero_state(DIMS)
    return State("rwkv6", zeros.map(lambda array: rng.standard_normal(array.shape).astype(np.float32)))


def _arrays(state: State) -> dict[str, bytes]:
    return {name: getattr(state.recurrent, name).tobytes() for name in ARRAYS}


def test_a_saved_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    state = _state()
    state.save(tmp_path / "a.state")
    again = State.load(tmp_path / "a.state")
    again.require("rwkv6", DIMS)
    assert _arrays(again) == _arrays(state)
    assert [path.name for path in tmp_path.iterdir()] == ["a.state"]


def test_saving_replaces_an_older_state(tmp_path: Path) -> None:
    _state(0).save(tmp_path / "a.state")
    _state(1).save(tmp_path / "a.state")
    assert _arrays(State.load(tmp_path / "a.state")) == _arrays(_state(1))


def test_a_copy_shares_nothing() -> None:
    state = _state()
    copy = state.copy()
    copy.recurrent.wkv[:] = 0
    assert _arrays(state) == _arrays(_state())


@pytest.mark.parametrize(("arch", "dims"), [("rwkv7", DIMS), ("rwkv6", Dims(2, 12, 20, 30, 6, 2)), ("rwkv6", Dims(3, 12, 20, 30, 3, 4))])
def test_another_models_state_is_refused(arch: str, dims: Dims) -> None:
    with pytest.raises(FormatError, match=f"this one is of rwkv6 with .*, the model is {arch} with"):
        _state().require(arch, dims)


def _rewrite(change: Callable[[dict[str, np.ndarray]], object], metadata: dict[str, str] | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        arrays = load_file(path)
        change(arrays)
        save_file(arrays, path, metadata or {"rwkvquant_state": "0", "arch": "rwkv6"})

    return write


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the pickle ran')",)


def _npz_with_pickle(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, wkv=np.array([Bomb()], dtype=object))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "an npz with a pickle": _npz_with_pickle,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a header far too long": lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
    "another version": _rewrite(lambda arrays: None, {"rwkvquant_state": "1", "arch": "rwkv6"}),
    "someone else's": _rewrite(lambda arrays: None, {"format": "pt"}),
    "an array missing": _rewrite(lambda arrays: arrays.pop("wkv")),
    "an array too many": _rewrite(lambda arrays: arrays.update(more=np.zeros(3, np.float32))),
    "another type": _rewrite(lambda arrays: arrays.update(wkv=arrays["wkv"].astype(np.float16))),
    "an axis missing": _rewrite(lambda arrays: arrays.update(wkv=arrays["wkv"][0])),
    "widths that differ": _rewrite(lambda arrays: arrays.update(ffn_shift=np.zeros((2, 8), np.float32))),
    "heads that are not square": _rewrite(lambda arrays: arrays.update(wkv=np.zeros((2, 3, 4, 5), np.float32))),
    "NaN": _rewrite(lambda arrays: arrays["wkv"].__setitem__((0, 0, 0, 0), np.nan)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_state_is_refused_by_its_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.state"
    _state().save(path)
    HOSTILE[name](path)
    with pytest.raises(FormatError, match=str(path)):
        State.load(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FormatError, match=str(path)):
            State.load(path)
    for path in (tmp_path, tmp_path / "nowhere" / "a.state"):
        with pytest.raises(FormatError, match=r"not saved: .* could not be written"):
            _state().save(path)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_flipped_byte_gives_a_state_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, position: int, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.state"
    _state().save(path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(FormatError):
        assert isinstance(State.load(path), State)

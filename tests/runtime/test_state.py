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
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.runtime.states.files import PackedState, State

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
    "another version": _rewrite(lambda arrays: None, {"rwkvquant_state": "2", "arch": "rwkv6"}),
    "said to be at rest": _rewrite(lambda arrays: None, {"rwkvquant_state": "1", "arch": "rwkv6", "bits": "8"}),
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


RESTING: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "a part missing": lambda arrays: arrays.pop("wkv.left"),
    "a part too many": lambda arrays: arrays.update({"wkv.more": np.zeros(3, np.int8)}),
    "a part of another array": lambda arrays: arrays.update({"cache.codes": arrays.pop("wkv.codes")}),
    "codes of another type": lambda arrays: arrays.update({"wkv.codes": arrays["wkv.codes"].astype(np.int16)}),
    "scales of another type": lambda arrays: arrays.update({"wkv.scales": arrays["wkv.scales"].astype(np.uint32)}),
    "fewer codes": lambda arrays: arrays.update({"wkv.codes": arrays["wkv.codes"][..., :-1].copy()}),
    "fewer scales": lambda arrays: arrays.update({"wkv.scales": arrays["wkv.scales"][..., :-1].copy()}),
    "fewer scales of a vector": lambda arrays: arrays.update({"att_shift.scales": arrays["att_shift.scales"][..., :-1].copy()}),
    "no axis": lambda arrays: arrays.update({"wkv.left": np.array(3, np.int8)}),
    "no axis in a vector": lambda arrays: arrays.update({"ffn_shift.codes": np.array(3, np.int8)}),
    "widths that differ": lambda arrays: arrays.update({"ffn_shift.codes": np.zeros((2, 8), np.int8)}),
    "a code of -128 in a vector": lambda arrays: arrays["att_shift.codes"].__setitem__((0, 0), -128),
    "a code of -128 in p": lambda arrays: arrays["wkv.left"].__setitem__((0, 0, 0), -128),
    "a scale of infinity": lambda arrays: arrays["wkv.scales"].__setitem__((0, 0, 0), 0x7F80),
    "a scale of NaN": lambda arrays: arrays["att_shift.scales"].__setitem__((0, 0), 0x7FC0),
    "a scale below 0": lambda arrays: arrays["wkv.scales"].__setitem__((0, 0, 0), 0xBF80),
    "a scale that overflows": lambda arrays: arrays["wkv.scales"].__setitem__((0, 0, 0), 0x7F7F),
    "a weight of NaN": lambda arrays: arrays["wkv.weight"].__setitem__((0, 0), np.nan),
    "a weight that overflows": lambda arrays: arrays["wkv.weight"].__setitem__((0, 0), 3e38),
}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", RESTING)
def test_a_file_that_is_no_state_at_rest_is_refused_by_its_path(tmp_path: Path, name: str, bits: int) -> None:
    path = tmp_path / "bad.state"
    _state().save(path, bits=bits)
    arrays = load_file(path)
    RESTING[name](arrays)
    save_file(arrays, path, {"rwkvquant_state": "1", "arch": "rwkv6", "bits": str(bits)})
    for load in (State.load, PackedState.load):
        with pytest.raises(FormatError, match=str(path)):
            load(path)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_code_below_the_range_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "bad.state"
    _state().save(path, bits=bits)
    arrays = load_file(path)
    arrays["wkv.codes"][0, 0, 0, 0] = -128 if bits == 8 else 0x80  # two of 4 bits: 0, which is -8, and 8, which is 0
    save_file(arrays, path, {"rwkvquant_state": "1", "arch": "rwkv6", "bits": str(bits)})
    with pytest.raises(FormatError, match=r"codes in their range; those of wkv are not"):
        State.load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"rwkvquant_state": "0", "arch": "rwkv6", "bits": "8"},
        {"rwkvquant_state": "2", "arch": "rwkv6", "bits": "8"},
        {"rwkvquant_state": "1", "arch": "rwkv6", "bits": "4"},
        {"rwkvquant_state": "1", "arch": "rwkv6", "bits": "08"},
        {"rwkvquant_state": "1", "arch": "rwkv6"},
        {"rwkvquant_state": "1", "arch": "mamba", "bits": "8"},
    ],
)
def test_a_state_at_rest_with_other_metadata_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "bad.state"
    _state().save(path, bits=8)
    save_file(load_file(path), path, metadata)
    with pytest.raises(FormatError, match=str(path)):
        State.load(path)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_file_in_few_bits_is_the_packed_state_to_the_bit(tmp_path: Path, bits: int) -> None:
    state = _state()
    packed = state.packed(bits)
    state.save(tmp_path / "a.state", bits=bits)
    packed.save(tmp_path / "b.state")
    for name in ("a.state", "b.state"):
        again = PackedState.load(tmp_path / name)
        assert (again.arch, again.bits, again.nbytes) == ("rwkv6", bits, packed.nbytes)
        assert {key: part.tobytes() for key, part in again.arrays.items()} == {key: part.tobytes() for key, part in packed.arrays.items()}
    assert _arrays(State.load(tmp_path / "a.state")) == _arrays(packed.state())
    again.state().require("rwkv6", DIMS)


def test_a_packed_state_is_near_and_shares_nothing() -> None:
    state = _state()
    packed = state.packed(8)
    for name in ARRAYS:
        own, near = getattr(state.recurrent, name), getattr(packed.state().recurrent, name)
        assert near.dtype == np.float32 and np.abs(near - own).max() < 0.02 * np.abs(own).max()
    kept = _arrays(packed.state())
    packed.state().recurrent.wkv[:] = 0
    state.recurrent.wkv[:] = 0
    assert _arrays(packed.state()) == kept


@pytest.mark.parametrize("bits", [0, 2, 16, True, "8", None])
def test_other_bits_are_refused(tmp_path: Path, bits: object) -> None:
    for call in (_state().packed, lambda bits: _state().save(tmp_path / "a.state", bits)):
        with pytest.raises(ConfigError, match=r"packed in 8 or 4 bits a value; got"):
            call(bits)  # type: ignore[operator]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, -2e30])
def test_a_state_that_cannot_be_packed_is_refused(value: float) -> None:
    state = _state()
    state.recurrent.wkv[0, 0, 0, 0, 0] = value
    with pytest.raises(FormatError, match=r"finite values up to 1e\+30"):
        state.packed(8)


def test_the_largest_values_that_are_packed_are_read_again(tmp_path: Path) -> None:
    state = State("rwkv6", _state().recurrent.map(lambda values: np.sign(values) * np.float32(1e30)))
    for bits in (8, 4):
        state.save(tmp_path / "a.state", bits=bits)
        assert all(np.isfinite(values).all() for values in State.load(tmp_path / "a.state").recurrent.arrays)


def test_a_full_state_is_no_packed_one(tmp_path: Path) -> None:
    _state().save(tmp_path / "a.state")
    with pytest.raises(FormatError, match=r"saved in 32 bits a value, not at rest; read it with State\.load"):
        PackedState.load(tmp_path / "a.state")


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), bits=st.sampled_from([32, 8, 4]))
def test_a_flipped_byte_gives_a_state_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, bits: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.state"
    _state().save(path, bits=bits)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(FormatError):
        assert all(np.isfinite(values).all() for values in State.load(path).recurrent.arrays)

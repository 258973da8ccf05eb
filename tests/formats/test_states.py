"""A file may say how engines keep the recurrent state. Without that it is float32, and what a reader does not know is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from tests.formats.examples import write_model
from tests.fuzz.packed import put_together, take_apart

FLOAT32 = {"att_shift": "float32", "ffn_shift": "float32", "wkv": "float32"}


def with_states(path: Path, states: Any) -> Path:
    """A packed file whose metadata has `states`."""
    parts = take_apart(write_model(path).read_bytes())
    assert "states" not in parts.header["__metadata__"]  # writers do not write it
    parts.header["__metadata__"]["states"] = states
    path.write_bytes(put_together(parts.header, b"".join(parts.arrays.values())))
    return path


def test_states_are_float32_if_a_file_does_not_say_otherwise(tmp_path: Path) -> None:
    assert open_packed(write_model(tmp_path / "m.safetensors")).states == FLOAT32
    assert list(FLOAT32) == [array.name for array in ARCHITECTURES["rwkv7"].state]


@pytest.mark.parametrize("states", [{}, {"wkv": {"codec": "float32"}}])
def test_float32_may_be_said(tmp_path: Path, states: Any) -> None:
    packed = open_packed(with_states(tmp_path / "m.safetensors", states))
    packed.verify()
    assert packed.states == FLOAT32


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        ({"wkv": {"codec": "int8", "bits": 8}}, r"keeps states as float32; states\[wkv\] has the codec 'int8'\. Try a newer"),
        ({"cache": {"codec": "float32"}}, r"the state of RWKV-7 \(x070\) has the arrays att_shift, ffn_shift, wkv; states names 'cache'"),
        ({"wkv": {"codec": "float32", "bits": 8}}, r"the codec float32 has no parameters; states\[wkv\] has \['bits'\]"),
        ({"wkv": {}}, r"states\[wkv\] has no codec"),
        ({"wkv": {"codec": 8}}, r"codec of states\[wkv\] must be str; got 8"),
        ({"wkv": "float32"}, r"states\[wkv\] must be dict; got 'float32'"),
        ([], "states must be a JSON object; got list"),
    ],
)
def test_what_a_reader_does_not_know_of_states_is_refused_in_a_sentence(tmp_path: Path, states: Any, sentence: str) -> None:
    with pytest.raises(FormatError, match=rf"m\.safetensors: .*{sentence}"):
        open_packed(with_states(tmp_path / "m.safetensors", states))

"""The safetensors reader against files that the safetensors package would not write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.checkpoints.open import kind
from rwkvquant.checkpoints.safetensors_file import SafetensorsFile
from rwkvquant.errors import CheckpointError
from tests.checkpoints.layouts import write_safetensors
from tests.helpers import random_state_dict

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path: Path, header: object, data: bytes = np.arange(6, dtype="<f4").tobytes()) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_the_smallest_file_is_what_the_format_says(tmp_path: Path) -> None:
    file = SafetensorsFile(write(tmp_path / "a.st", {"__metadata__": {"format": "pt"}, "x": ENTRY}))
    np.testing.assert_array_equal(file.read("x"), [[0, 1, 2], [3, 4, 5]])
    assert file.read("x").flags.writeable and file.read("x").flags.c_contiguous


def test_values_need_not_be_aligned(tmp_path: Path) -> None:
    path = write(tmp_path / "a.st", json.dumps({"x": ENTRY}).encode() + b" " * (5 - len(json.dumps({"x": ENTRY})) % 4))
    assert (int.from_bytes(path.read_bytes()[:8], "little") + 8) % 4 == 1
    np.testing.assert_array_equal(SafetensorsFile(path).read("x").reshape(-1), np.arange(6))


def test_a_header_of_any_length_is_not_taken_for_an_index(tmp_path: Path) -> None:
    """The first byte of the length may be the one that begins a JSON text."""
    text = json.dumps({"x": ENTRY}).encode()
    for length in (ord("{"), 256 + ord("{"), (ord("{") << 8) + ord("{")):
        path = write(tmp_path / "a.json", text.ljust(length))
        assert path.read_bytes()[:1] == b"{" and kind(path) == "safetensors"


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{'x': 1}", "is not valid JSON"),
    "a list": ([], "must be a JSON object"),
    "not UTF-8": (b'{"\xff": 1}', "is not valid JSON"),
    "deep nesting": (b'{"x":' * 100_000, "is not valid JSON"),
    "a name given twice": (b'{"x": %s, "x": %s}' % ((json.dumps(ENTRY).encode(),) * 2), "'x' is there twice"),
    "no tensors": ({"__metadata__": {}}, "holds no tensors"),
    "a wrong entry": ({"x": 7}, "must give each tensor a dtype"),
    "a wrong shape": ({"x": ENTRY | {"shape": "2, 3"}}, "must give each tensor a dtype"),
    "a negative size": ({"x": ENTRY | {"shape": [-2, -3]}}, "must give each tensor a dtype"),
    "a size that is true": ({"x": ENTRY | {"shape": [True, 6]}}, "must give each tensor a dtype"),
    "a size with many digits": ({"x": ENTRY | {"shape": [10**4000, 6]}}, "must give each tensor a dtype"),
    "a float as a size": ({"x": ENTRY | {"shape": [2.0, 3]}}, "must give each tensor a dtype"),
    "an infinite size": (b'{"x": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 24]}}', "must give each tensor a dtype"),
    "three offsets": ({"x": ENTRY | {"data_offsets": [0, 12, 24]}}, "must give each tensor a dtype"),
    "integers": ({"x": ENTRY | {"dtype": "I32"}}, "x is I32"),
    "doubles": ({"x": ENTRY | {"dtype": "F64", "shape": [3]}}, "x is F64"),
    "no dimension": ({"x": ENTRY | {"shape": []}}, "1 to 8 dimensions"),
    "nine dimensions": ({"x": ENTRY | {"shape": [1] * 8 + [6]}}, "1 to 8 dimensions"),
    "an empty tensor": ({"x": ENTRY | {"shape": [0, 6]}}, "sizes of at least 1"),
    "more than its bytes": ({"x": ENTRY | {"shape": [3, 3]}}, "takes 36 bytes by its shape and dtype, but 24 by its offsets"),
    "huge": ({"x": ENTRY | {"shape": [1 << 50, 1 << 50]}}, "by its shape and dtype"),
    "huge with offsets to match": ({"x": ENTRY | {"shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, "the file is truncated"),
    "offsets backwards": ({"x": ENTRY | {"data_offsets": [24, 0]}}, "but -24 by its offsets"),
    "a gap before": ({"x": ENTRY | {"shape": [5], "data_offsets": [4, 24]}}, "must begin at byte 0, got 4"),
    "a gap after": ({"x": ENTRY | {"shape": [5], "data_offsets": [0, 20]}}, "4 bytes after the last tensor"),
    "an overlap": ({"x": ENTRY, "y": ENTRY | {"shape": [1], "data_offsets": [20, 24]}}, "y must begin at byte 24"),
    "a name with a line break": ({"x\ny": ENTRY}, "name is printable"),
    "an endless name": ({"x" * 1000: ENTRY}, "at most 256 characters"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_header_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    header, match = BAD[case]
    with pytest.raises(CheckpointError, match=match) as caught:
        SafetensorsFile(write(tmp_path / "a.st", header))
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_header_longer_than_the_file_or_the_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.st", {"x": ENTRY})
    good = path.read_bytes()
    path.write_bytes(((1 << 63) - 1).to_bytes(8, "little") + good[8:])
    with pytest.raises(CheckpointError, match=r"a\.st: the file ends inside its header: it is truncated"):
        open_checkpoint(path)
    with open(path, "r+b") as file:
        file.write((17 << 20).to_bytes(8, "little"))
        file.truncate(18 << 20)  # sparse: takes no disk space
    with pytest.raises(CheckpointError, match="the header may have at most 16 MB; got 17 MB"):
        open_checkpoint(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", random_state_dict("rwkv7", layers=1, width=32, head_size=8))
    good = path.read_bytes()
    for share in (0.0001, 0.01, 0.3, 0.9, 0.9999):
        path.write_bytes(good[: int(share * len(good))])
        with pytest.raises(CheckpointError, match=r"a\.safetensors: .*(truncated|not a zip)"):
            open_checkpoint(path)


def test_altered_headers_are_refused_or_stay_inside_the_file(tmp_path: Path) -> None:
    """The format has no checksum, so an altered header may describe other tensors, but no bytes outside the file."""
    path = write_safetensors(tmp_path / "a.st", {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3).half(), "c": torch.ones(1)})
    good = path.read_bytes()
    chooser = random.Random(0)
    outcomes = []
    for position in range(len(good)):
        for value in {chooser.choice(b'\0\xff0"'), ord("9"), good[position] ^ 1} - {good[position]}:
            path.write_bytes(good[:position] + bytes([value]) + good[position + 1 :])
            try:
                file = SafetensorsFile(path)
                outcomes.append(sum(file.read(name).size for name in file.tensors) <= 10)
            except CheckpointError as error:
                assert len(str(error)) < 400
                outcomes.append(None)
    assert set(outcomes) == {None, True}  # some harmless (other names, other values), none larger than the file


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    state_dict = random_state_dict("rwkv6", layers=1, dtype=torch.bfloat16)
    state_dict["blocks.0.ffn.key.weight"][3, 5] = float("inf")
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "a.st", state_dict))
    with pytest.raises(CheckpointError, match=r"a\.st: weights must be finite; blocks\.0\.ffn\.key\.weight has 1 NaN or infinite"):
        checkpoint.read_matrix("blocks.0.ffn.key.weight")

"""Commands on a Hugging Face directory: the same file as from a .pth, and the directory itself stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.cli.main import run
from rwkvquant.formats.container import open_packed
from tests.checkpoints.layouts import fla_rwkv7, write_directory
from tests.helpers import random_state_dict, write_pth

VOCABULARY = Path(__file__).parents[1] / "data" / "tokenizer.json"
PLAIN = ["--method", "rtn", "--code-bits", "4"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.pth, and the same model as a directory with its tokenizer: model/."""
    state_dict = random_state_dict("rwkv7", layers=2, width=64, vocab=4096, first_layer_v=False)
    write_pth(tmp_path / "model.pth", state_dict)
    write_directory(tmp_path / "model", fla_rwkv7(state_dict), 2, vocabulary=VOCABULARY)
    (tmp_path / "some.txt").write_text("The old man and the sea. " * 40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_directory_quantises_to_the_same_weights_with_its_own_tokenizer(folder: Path) -> None:
    assert run(["quantize", "model", "-o", "a.safetensors", *PLAIN]) == 0
    assert run(["quantize", "model.pth", "-o", "b.safetensors", *PLAIN, "--tokenizer", str(VOCABULARY)]) == 0
    one, other = open_packed("a.safetensors"), open_packed("b.safetensors")
    assert one.tokenizer.kind == other.tokenizer.kind == "bpe"
    assert one.tensors.keys() == other.tensors.keys()
    for name in one.tensors:
        for suffix, array in one.arrays(name).items():
            np.testing.assert_array_equal(array, other.arrays(name)[suffix], err_msg=name)
    assert one.provenance["source"] == "model"


def test_every_command_takes_a_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "model", "-o", "a.safetensors", *PLAIN]) == 0
    assert run(["quantize", "model", "--dry-run", *PLAIN]) == 0
    assert run(["eval", "model", "--text", "some.txt"]) == 0
    assert run(["compare", "model", "a.safetensors", "--text", "some.txt"]) == 0
    assert run(["generate", "model", "-p", "The", "-n", "3"]) == 0
    assert run(["activations", "model", "blocks.0.att.r_k", "--text", "some.txt", "--rows", "1", "--length", "32"]) == 0
    capsys.readouterr()
    assert run(["inspect", "model", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["layout"]) == ("safetensors", "fla")
    assert {"name": "blocks.1.att.w1", "role": "lora", "dtype": "float32", "shape": [64, 16], "bits_per_weight": 32} in told["tensors"]


def test_no_file_of_a_directory_can_be_the_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in Path("model").iterdir()}
    for path in before:
        if "safetensors" in path.name:
            assert run(["quantize", "model", "-o", str(path), *PLAIN]) == 2
            assert "the output must not be an input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("model").iterdir()} == before


def test_a_packed_file_is_not_quantised_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "model", "-o", "a.safetensors", *PLAIN]) == 0
    capsys.readouterr()
    assert run(["quantize", "a.safetensors", "-o", "b.safetensors", *PLAIN]) == 2
    assert "a.safetensors: this is a file packed by rwkvquant" in capsys.readouterr().err

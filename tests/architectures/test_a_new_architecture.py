"""A new architecture is one object. When it is registered, its checkpoints can be recognised, inspected and packed, with no other edit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rwkvquant.architectures import ARCHITECTURES, Architecture, Role, TensorSpec, architecture, register
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.cli.main import run
from rwkvquant.errors import CheckpointError, ConfigError, FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.kernels.state import StateArray
from rwkvquant.models import forward_of
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.engines.reference import step_of
from rwkvquant.runtime.session import load
from rwkvquant.runtime.weights import checkpoint_weights
from tests.helpers import random_state_dict, write_pth
from tests.runtime.packing import pack_checkpoint

BYTES = TokenizerData("bytes", {"size": 256})
RWKV7 = ARCHITECTURES["rwkv7"]
TOY = replace(
    RWKV7,
    name="toy",
    title="Toy (t1)",
    mark=r"^compass\.weight$",
    outside=(*RWKV7.outside, TensorSpec("compass.weight", ("V", "C"), Role.HEAD, input="compass.x")),
    state=(*RWKV7.state, StateArray("path", ("L", "B", "T", "C"))),
    relatives=(),
    released={},
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    for name in list(ARCHITECTURES):  # so that pytest removes what the test registers
        monkeypatch.setitem(ARCHITECTURES, name, ARCHITECTURES[name])
    monkeypatch.setitem(ARCHITECTURES, "toy", TOY)
    return TOY


@pytest.fixture
def checkpoint(toy: Architecture, tmp_path: Path) -> Path:
    return write_pth(tmp_path / "toy.pth", random_state_dict("toy", layers=2, width=32, head_size=16, hidden=64, vocab=48))


def test_a_checkpoint_of_it_is_recognised_by_its_mark(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    assert opened.architecture is TOY and opened.arch == "toy" and opened.dims.ranks == {"Rw": 16, "Ra": 16, "Rv": 8, "Rg": 24}
    names = [matrix.name for matrix in opened.logical_matrices()]
    assert names[-2:] == ["head.weight", "compass.weight"] and "blocks.1.att.key.weight" in names


def test_inspect_shows_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(checkpoint), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["arch"] == "toy" and shown["parameters_by_role"]["head"] == 2 * 48 * 32


def test_a_missing_tensor_is_refused_with_its_title(toy: Architecture, tmp_path: Path) -> None:
    tensors = random_state_dict("toy")
    del tensors["blocks.1.att.w1"]
    with pytest.raises(CheckpointError, match=r"lacks blocks\.1\.att\.w1, which every Toy \(t1\) of 2 layers has"):
        open_checkpoint(write_pth(tmp_path / "toy.pth", tensors))


def test_without_the_object_the_same_file_is_an_rwkv7_with_one_tensor_too_many(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ARCHITECTURES, "toy")
    with pytest.raises(CheckpointError, match=r"RWKV-7 \(x070\) has no tensor compass\.weight"):
        open_checkpoint(checkpoint)


def test_refusals_list_it_as_supported(toy: Architecture, tmp_path: Path) -> None:
    path = write_pth(tmp_path / "other.pth", {"h.0.attn.weight": random_state_dict("rwkv7")["emb.weight"]})
    with pytest.raises(CheckpointError, match=r"; Toy \(t1\), RWKV-7 \(x070\), RWKV-6 \(x060\), Vision-RWKV and LLaMA checkpoints"):
        open_checkpoint(path)


def test_a_packed_file_of_it_has_both_heads_and_opens(checkpoint: Path, tmp_path: Path) -> None:
    packed = open_packed(pack_checkpoint(checkpoint, tmp_path / "toy.safetensors", BYTES))
    assert packed.architecture is TOY
    assert [spec.name for spec in packed.architecture.heads] == ["head.weight", "compass.weight"]
    assert packed.qtensor("compass.weight").decode().shape == (48, 32)
    with pytest.raises(FormatError, match=r"every model has a tensor compass\.weight; this file has none"):
        pack_checkpoint(checkpoint, tmp_path / "other.safetensors", BYTES, leave_out="compass.weight")


def test_code_that_cannot_run_it_says_so_in_a_sentence(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="no torch forward for toy"):
        forward_of("toy")
    with pytest.raises(ConfigError, match="models of toy can be read and packed, but not run"):
        step_of("toy")
    with pytest.raises(ConfigError, match="models of toy can be read and packed, but not run"):
        load(checkpoint)
    with pytest.raises(FormatError, match="there is no engine for toy"):
        NativeEngine(checkpoint_weights(open_checkpoint(checkpoint)), 1)


def test_its_state_has_the_arrays_it_names(toy: Architecture, checkpoint: Path) -> None:
    state = toy.zero_state(open_checkpoint(checkpoint).dims, batch=3)
    assert state.path.shape == (2, 3, 0, 32) and state.wkv.shape == (2, 3, 2, 16, 16)


def test_a_name_is_registered_once(toy: Architecture) -> None:
    with pytest.raises(AssertionError, match="rwkv7"):
        register(replace(TOY, name="rwkv7"))
    with pytest.raises(ConfigError, match="architectures are llama, vrwkv, rwkv6, rwkv7, toy; got rwkv9"):
        architecture("rwkv9")


def test_a_file_of_an_unknown_architecture_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_checkpoint(checkpoint, tmp_path / "toy.safetensors", BYTES)
    monkeypatch.delitem(ARCHITECTURES, "toy")
    with pytest.raises(FormatError, match="knows llama, vrwkv, rwkv6, rwkv7; the file holds 'toy'"):
        open_packed(path)

"""A checkpoint whose embedding is its head gives the logits of the same model with both, and nothing is guessed without config.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import rwkvquant
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.cli.main import run
from rwkvquant.errors import CheckpointError
from rwkvquant.formats.container import open_packed
from tests.checkpoints.layouts import LAYOUTS, Tensors, write_directory, write_safetensors
from tests.helpers import random_state_dict, write_pth

TOKENS = [0, 7, 99, 3, 41, 7]
HEADS = ("head.weight", "lm_head.weight")


def both(arch: str = "rwkv7", **options: object) -> Tensors:
    """A model with two tensors of the same values."""
    tensors = random_state_dict(arch, layers=2, dtype=torch.float16, **options)
    return tensors | {"head.weight": tensors["emb.weight"].clone()}


def without_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name not in HEADS}


def directory(path: Path, tensors: Tensors, config: object = None, shards: int = 1) -> Path:
    write_directory(path, tensors, shards)
    (path / "config.json").write_text(json.dumps({"tie_word_embeddings": True} if config is None else config))
    return path


def logits(path: Path) -> np.ndarray:
    return rwkvquant.load(path, threads=1).forward(TOKENS, logits="all")[0]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("arch", "layout"), [("rwkv7", "hf"), ("rwkv7", "fla"), ("rwkv6", "hf"), ("rwkv6", "fla"), ("rwkv7", "blinkdl")])
def test_the_embedding_is_the_head_in_every_layout(tmp_path: Path, arch: str, layout: str, shards: int) -> None:
    tensors = both(arch)
    path = directory(tmp_path / "tied", without_head(LAYOUTS[arch][layout](tensors)), shards=shards)
    checkpoint = open_checkpoint(path)
    assert checkpoint.tied_head == "head.weight"
    np.testing.assert_array_equal(checkpoint.read("head.weight"), checkpoint.read("emb.weight"))
    np.testing.assert_array_equal(checkpoint.read_matrix("head.weight"), tensors["emb.weight"].float().numpy())
    np.testing.assert_array_equal(logits(path), logits(write_pth(tmp_path / "both.pth", tensors)))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_config_next_to_a_file_is_found(tmp_path: Path, name: str) -> None:
    write = write_safetensors if name.endswith("safetensors") else write_pth
    path = write(tmp_path / name, without_head(both()))
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    assert open_checkpoint(path).tied_head == "head.weight"


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}], ids=str)
def test_nothing_is_guessed_when_config_does_not_say_it(tmp_path: Path, config: object) -> None:
    path = directory(tmp_path / "tied", without_head(both()), config)
    with pytest.raises(CheckpointError, match=r"lacks head\.weight; if the embedding is also the head, a config\.json"):
        open_checkpoint(path)
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks head\.weight; if the embedding"):
        open_checkpoint(path)


def test_a_head_in_the_file_is_used_whatever_config_says(tmp_path: Path) -> None:
    tensors = random_state_dict("rwkv7", layers=2, dtype=torch.float16)
    path = directory(tmp_path / "own", tensors)
    assert open_checkpoint(path).tied_head is None
    np.testing.assert_array_equal(open_checkpoint(path).read("head.weight"), tensors["head.weight"].float().numpy())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"tie_word_embeddings": "yes"}', '"tie_word_embeddings" in config.json must be true or false; got a str'),
        ("[1]", "config.json must be a JSON object; got list"),
        ("{", "config.json is not valid JSON"),
    ],
)
def test_a_damaged_config_is_refused_only_where_it_decides(tmp_path: Path, config: str, message: str) -> None:
    path = directory(tmp_path / "tied", without_head(both()))
    (path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)
    other = directory(tmp_path / "own", both())
    (other / "config.json").write_text(config)
    assert open_checkpoint(other).tied_head is None


def test_other_missing_tensors_are_still_named(tmp_path: Path) -> None:
    tensors = without_head(both())
    for name in ("ln_out.bias", "blocks.1.att.key.weight"):
        path = directory(tmp_path / name, {key: tensor for key, tensor in tensors.items() if key != name})
        with pytest.raises(CheckpointError, match=rf"lacks {name}"):
            open_checkpoint(path)


def test_inspect_counts_what_is_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = without_head(both())
    path = directory(tmp_path / "tied", tensors)
    summary = open_checkpoint(path).summary()
    assert summary["tied_head"] is True
    assert summary["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert "head.weight" not in [row["name"] for row in summary["tensors"]]
    assert open_checkpoint(write_pth(tmp_path / "both.pth", both())).summary()["tied_head"] is False
    assert run(["inspect", str(path)]) == 0
    assert "the head is the embedding" in capsys.readouterr().out.replace("\n", " ")


def test_a_packed_file_has_a_head_with_its_own_bits(tmp_path: Path) -> None:
    path, output = directory(tmp_path / "tied", without_head(both())), tmp_path / "packed.safetensors"
    assert run(["quantize", str(path), "-o", str(output), "--method", "rtn", "--bits", "4.5", "--head-bits", "6", "--emb-bits", "8"]) == 0
    packed = open_packed(output)
    rows = {row["name"]: row for row in packed.summary()["tensors"]}
    assert rows["head.weight"]["layout"].startswith("uniform6") and rows["emb.weight"]["layout"].startswith("uniform8")
    assert sum(row["stored_bytes"] for row in packed.summary()["ledger"] if not row["subtotal"]) == output.stat().st_size
    with_both = tmp_path / "both.safetensors"
    pth = write_pth(tmp_path / "both.pth", both())
    assert run(["quantize", str(pth), "-o", str(with_both), "--method", "rtn", "--bits", "4.5", "--head-bits", "6", "--emb-bits", "8"]) == 0
    np.testing.assert_array_equal(logits(output), logits(with_both))

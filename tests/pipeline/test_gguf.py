"""`export --gguf-type`: a file that reads back as what was rounded, in the types of llama-quantize."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.cli.main import run
from rwkvquant.config import GGUF_TYPES
from rwkvquant.evaluation.divergence import compare_many
from rwkvquant.evaluation.windows import text_windows
from rwkvquant.models import CheckpointSource, TorchModel
from rwkvquant.quantizers.gguf.gptq import nearest
from rwkvquant.quantizers.gguf.grids import GRIDS
from rwkvquant.runtime.tokenizer import load_tokenizer
from tests.pipeline.toys import first_blocks

DATA = Path(__file__).parents[1] / "data"
SMALL = ["--calib-rows", "8", "--calib-len", "64", "--tokenizer", str(DATA / "tokenizer.json")]


def export(source: Path, target: Path, kind: str, *more: str) -> int:
    return run(["export", str(source), "-o", str(target), "--layout", "gguf", "--gguf-type", kind, *SMALL, *more])


def two_blocks(name: str, folder: Path) -> Path:
    return first_blocks(DATA / name, 2, folder / "m.pth")


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_types_are_those_of_llama_quantize(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of 128 and 512 columns: some are too short for types with blocks of 256."""
    assert export(two_blocks("rwkv7-tiny.pth", tmp_path), tmp_path / "m.gguf", kind, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["gguf_type"] == kind and said["file_bytes"] == (tmp_path / "m.gguf").stat().st_size
    short = {"q4_K": "q5_0", "q3_K": "q4_0"}.get(kind, kind)
    tensors = open_checkpoint(tmp_path / "m.gguf").tensors
    assert {
        name: tensors[name].dtype for name in ("emb.weight", "head.weight", "blocks.1.att.key.weight", "blocks.1.ffn.value.weight")
    } == {
        "emb.weight": short,
        "head.weight": "q8_0",
        "blocks.1.att.key.weight": short,
        "blocks.1.ffn.value.weight": kind,
    }
    assert tensors["blocks.1.att.w1"].dtype == "float32" and tensors["blocks.1.att.g1"].dtype == "float16"
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["general.file_type"].contents() == {"q8_0": 7, "q4_K": 14, "q4_0": 2, "q3_K": 11}[kind]


class _Nearest(CheckpointSource):
    """A checkpoint with the same matrices rounded to the nearest values of the same types."""

    def globals(self) -> dict[str, torch.Tensor]:
        found = super().globals()
        return found | {name: _nearest(found[name], kind) for name, kind in {"emb.weight": "q4_0", "head.weight": "q6_K"}.items()}

    def block(self, layer: int) -> dict[str, torch.Tensor]:
        found = super().block(layer)
        return {name: _nearest(W, "q4_0") if W.ndim == 2 and name.endswith("weight") else W for name, W in found.items()}


def _nearest(W: torch.Tensor, kind: str) -> torch.Tensor:
    return nearest(W, GRIDS[kind], torch.ones(W.shape[1])).decode()


@pytest.mark.long
def test_a_trained_model_diverges_less_than_by_rounding_to_nearest(tmp_path: Path) -> None:
    source = open_checkpoint(two_blocks("rwkv6-8m.pth", tmp_path))
    assert export(tmp_path / "m.pth", tmp_path / "m.gguf", "q4_0") == 0
    text = tmp_path / "text.txt"
    text.write_text("The old man went down to the harbour, and looked at the ships that lay there. " * 40)
    windows = text_windows(text, load_tokenizer(str(DATA / "tokenizer.json"), source.dims.vocab), context=256, max_tokens=512)
    models = {"ours": TorchModel(CheckpointSource(open_checkpoint(tmp_path / "m.gguf"))), "nearest": TorchModel(_Nearest(source))}
    found = compare_many(TorchModel(CheckpointSource(source)), models, windows)
    assert np.isfinite(found["ours"].kl).all() and found["ours"].kl.mean() < found["nearest"].kl.mean()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rwkv7-tiny.pth", "--layout", "pth", "--gguf-type", "q4_0"], "--gguf-type goes with --layout gguf; got --layout pth"),
        (["rwkv7-tiny.pth", "--layout", "gguf", "--gguf-type", "q5_9"], "--gguf-type must be one of q8_0, q4_K, q4_0, q3_K; got q5_9"),
        (["rwkv7-tiny-rtn4.safetensors", "--layout", "gguf", "--gguf-type", "q4_0"], "is a packed file. Give the checkpoint"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, *options = arguments
    assert run(["export", str(DATA / file), "-o", str(tmp_path / "m.gguf"), *options]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "m.gguf").exists()

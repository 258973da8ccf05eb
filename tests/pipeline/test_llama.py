"""Every method quantises a transformer, and its packed file runs: the engine gives the logits of torch on the same codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.formats.container import open_packed
from rwkvquant.models import PackedSource, TorchModel
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.recipes import METHODS
from rwkvquant.runtime.session import load
from tests.llama import CONFIG, write_llama
from tests.pipeline.toys import calibration_text, few_of

BITS = {"lnq": {"code_bits": 3, "own_options": ("groups=2",)}, "gptq": {"bits": 4, "group_size": 32}, "rtn": {"bits": 4.5}}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_quantises_a_transformer_and_it_runs(tmp_path: Path, method: str) -> None:
    folder, packed = write_llama(tmp_path / "llama"), tmp_path / "packed.safetensors"
    recipe = few_of(method=method, calibration=calibration_text(tmp_path, rows=3, length=48), tokenizer="bytes", **BITS.get(method, {}))
    result = quantize(folder, packed, recipe)
    assert result.bits_per_weight < 8
    tokens = [int(token) for token in np.random.default_rng(1).integers(0, CONFIG["vocab_size"], 20)]
    expected = TorchModel(PackedSource(open_packed(packed))).forward(torch.tensor([tokens]))[0][0].numpy()
    model = load(packed, activations="float32")
    found, state = model.forward(tokens, logits="all")
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert state.recurrent.keys.shape == (2, 1, 20, 32)
    rounded, _ = load(packed).forward(tokens, logits="all")  # int8 activations
    assert np.abs(rounded - expected).max() < 0.2 * np.abs(expected).max()
    assert len(load(packed, kv_cache=4).generate("Once", max_tokens=3, seed=1).tokens) <= 3

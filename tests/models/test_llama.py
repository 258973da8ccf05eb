"""LLaMA: torch, NumPy and the engine give the logits of the equations, written once more in float64, and of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rwkvquant.architectures import architecture
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.kernels.llama import step
from rwkvquant.models import CheckpointSource, TorchModel
from rwkvquant.runtime.session import load
from tests.llama import CONFIG, llama_tensors, write_llama

TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, CONFIG["vocab_size"], 23)]
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one query head for each key head": {"num_key_value_heads": 8},
    "tied head": {"tie_word_embeddings": True},
    "heads as wide as the model": {"num_attention_heads": 4, "head_dim": 16},
    "another theta and epsilon": {"rope_theta": 500000.0, "rms_norm_eps": 1e-3},
    "frequencies of llama 3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}


def float64_logits(config: dict[str, Any], tensors: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """The equations with loops over positions, heads and pairs of channels. No scaling of RoPE."""
    W = {name: values.astype(np.float64) for name, values in tensors.items()}
    size, heads = config["head_dim"], config["num_attention_heads"]
    shared = heads // config["num_key_value_heads"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config["rms_norm_eps"]) * W[name]

    def turned(x: np.ndarray, position: int) -> np.ndarray:
        out = np.empty(size)
        for i in range(size // 2):
            angle = position / config["rope_theta"] ** (2 * i / size)
            a, b = x[i], x[i + size // 2]
            out[i], out[i + size // 2] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
        return out

    x = W["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        y = norm(x, block + "input_layernorm.weight")
        q, k, v = (y @ W[f"{block}self_attn.{c}_proj.weight"].T for c in "qkv")
        out = np.zeros_like(q)
        for t in range(len(tokens)):
            for h in range(heads):
                own, theirs = slice(h * size, (h + 1) * size), slice(h // shared * size, (h // shared + 1) * size)
                scores = np.array([turned(q[t, own], t) @ turned(k[s, theirs], s) for s in range(t + 1)]) / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[t, own] = weights / weights.sum() @ v[: t + 1, theirs]
        x = x + out @ W[block + "self_attn.o_proj.weight"].T
        y = norm(x, block + "post_attention_layernorm.weight")
        gate, up = (y @ W[f"{block}mlp.{c}_proj.weight"].T for c in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ W[block + "mlp.down_proj.weight"].T
    head = W["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return norm(x, "model.norm.weight") @ head.T


def torch_logits(folder: Path) -> np.ndarray:
    return TorchModel(CheckpointSource(open_checkpoint(folder))).forward(torch.tensor([TOKENS]))[0][0].numpy()


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """float32 against float64: a rounding of 6e-8 for each of some hundred operations in a row."""
    assert found.shape == expected.shape and np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", [name for name in CONFIGS if "llama 3" not in name])
def test_every_forward_gives_the_logits_of_the_equations(tmp_path: Path, name: str) -> None:
    folder, config = write_llama(tmp_path, **CONFIGS[name]), CONFIG | CONFIGS[name]
    expected = float64_logits(config, llama_tensors(config), TOKENS)
    close(torch_logits(folder), expected)
    model = load(folder, tokenizer="bytes", activations="float32")
    close(model.forward(TOKENS, logits="all")[0], expected)


def test_one_token_at_a_time_is_the_whole_text_at_once(tmp_path: Path) -> None:
    """The NumPy step, the engine and torch with a cache, token by token and in pieces."""
    folder = write_llama(tmp_path)
    checkpoint = open_checkpoint(folder)
    expected = float64_logits(CONFIG, llama_tensors(CONFIG), TOKENS)
    weights = {name: checkpoint.read(name) for name in checkpoint.tensors}
    state, rows = architecture("llama").zero_state(checkpoint.dims, 2), []
    for token in TOKENS:
        logits, state = step(weights, weights["model.embed_tokens.weight"][[token, TOKENS[0]]], state)
        rows.append(logits[0])
    close(np.stack(rows), expected)
    assert state.keys.shape == (2, 2, len(TOKENS), 32)

    model, kept, read = load(folder, tokenizer="bytes", activations="float32"), None, []
    for start in range(0, len(TOKENS), 5):
        part, kept = model.forward(TOKENS[start : start + 5], kept, logits="all")
        read.append(part)
    close(np.concatenate(read), expected)

    forward, cache, seen = TorchModel(CheckpointSource(checkpoint)), None, []
    for start, stop in ((0, 9), (9, 10), (10, 23)):
        part, cache = forward.forward(torch.tensor([TOKENS[start:stop]]), cache)
        seen.append(part[0].numpy())
    close(np.concatenate(seen), expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    folder = write_llama(tmp_path, **CONFIGS[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor([TOKENS])).logits[0].numpy()
    close(torch_logits(folder), expected)

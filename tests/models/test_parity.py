"""Torch, the NumPy step and the `rwkv` package agree: three forwards that share no code but float32 rounding.

The package runs any head size on a CPU; only its CUDA kernels fix it to 64. It does not read time_state for RWKV-7, so its script
passes it as the first state.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.kernels import rwkv6, rwkv7
from rwkvquant.models import CheckpointSource, TorchModel
from tests.helpers import random_state_dict, write_pth
from tests.kernels.step_weights import state_sizes, step_weights

DATA = Path(__file__).parents[1] / "data"
TRAINED = {"rwkv7": "rwkv7-tiny", "rwkv6": "rwkv6-8m"}
ODD = {
    "one layer of 32, heads of 8": dict(layers=1, width=32, head_size=8),
    "width 96, heads of 16, hidden 100": dict(layers=3, width=96, head_size=16, hidden=100, vocab=300),
    "width 64, heads of 32, no first v": dict(width=64, head_size=32, first_layer_v=False, vocab=77),
    "width 192, heads of 64, tuned state": dict(width=192, head_size=64, time_state=True),
    "width 40, heads of 8, ranks 3 to 9": dict(width=40, head_size=8, ranks={"Rw": 3, "Ra": 5, "Rv": 7, "Rg": 9, "Rm": 3, "Rd": 5}),
}
STEPS = {"rwkv7": rwkv7.step, "rwkv6": rwkv6.step}
TOLERANCE = 1e-5  # of the largest logit. Rounding costs 2e-6, the promise is 1e-3, and a wrong eps in a norm is between them
TOKENS = 40


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """(architecture, case) -> path."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {(arch, "trained"): DATA / f"{name}.pth" for arch, name in TRAINED.items()}
    for arch in TRAINED:
        for seed, (case, shape) in enumerate(ODD.items()):
            paths[arch, case] = write_pth(folder / f"{arch}-{seed}.pth", random_state_dict(arch, seed=seed, **shape))
    return paths


@pytest.fixture(scope="module")
def package_logits(checkpoints, tmp_path_factory):
    """(architecture, case) -> (tokens, (T, V) logits of the package)."""
    folder = tmp_path_factory.mktemp("package")
    tokens = {key: draw_tokens(open_checkpoint(path).dims.vocab) for key, path in checkpoints.items()}
    runs, result = {}, {}
    for arch in TRAINED:  # the two programs side by side
        cases = [key for key in checkpoints if key[0] == arch]
        outputs = {key: folder / f"{arch}-{i}.npy" for i, key in enumerate(cases)}
        jobs = [{"checkpoint": str(checkpoints[key]), "tokens": tokens[key], "logits": str(outputs[key])} for key in cases]
        (folder / f"{arch}.json").write_text(json.dumps(jobs))
        script = Path(__file__).with_name("rwkv_package.py")
        command = [sys.executable, script, arch, folder / f"{arch}.json"]
        runs[arch] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), outputs
    for run, outputs in runs.values():
        said, _ = run.communicate()
        assert run.returncode == 0, said
        result |= {key: (tokens[key], np.load(output)) for key, output in outputs.items()}
    return result


def draw_tokens(vocab):
    return [0, *np.random.default_rng(vocab).integers(0, vocab, TOKENS - 1).tolist()]


def numpy_logits(arch, path, tokens):
    """(T, V), token by token."""
    weights = step_weights(torch.load(path, weights_only=True))
    state = ARCHITECTURES["rwkv7"].zero_state(state_sizes(weights))
    for layer in range(len(state.wkv)):
        state.wkv[layer] = weights.get(f"blocks.{layer}.att.time_state", 0)
    rows = []
    for token in tokens:
        logits, state = STEPS[arch](weights, weights["emb.weight"][[token]], state)
        rows.append(logits[0])
    return np.stack(rows)


def torch_logits(path, tokens):
    return TorchModel(CheckpointSource(open_checkpoint(path))).forward(torch.tensor([tokens]))[0][0].numpy()


def assert_agree(result, expected):
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("case", ["trained", *ODD])
@pytest.mark.parametrize("arch", TRAINED)
def test_torch_forward_is_the_package(arch, case, checkpoints, package_logits):
    tokens, expected = package_logits[arch, case]
    assert_agree(torch_logits(checkpoints[arch, case], tokens), expected)


@pytest.mark.parametrize("case", ["trained", *ODD])
@pytest.mark.parametrize("arch", TRAINED)
def test_numpy_step_is_the_package(arch, case, checkpoints, package_logits):
    tokens, expected = package_logits[arch, case]
    assert_agree(numpy_logits(arch, checkpoints[arch, case], tokens), expected)

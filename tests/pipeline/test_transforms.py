"""A job may quantise matrices for transformed inputs: tasks are those of T x, the plan knows their size, and models stay the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant import QuantizeRequest
from rwkvquant.codecs import GridConfig
from rwkvquant.errors import ConfigError, StoppedError
from rwkvquant.formats.container import open_packed
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.pipeline.tasks import Matrix, Task, perform
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.shared.loss import hessian_error
from rwkvquant.recipes import Recipe, Setting, recipe_for
from rwkvquant.runtime.session import load
from rwkvquant.transforms import transform_named
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file
from tests.quantizers.examples import matrix_and_hessian

EIGHT = Setting("gptq", GridConfig(8, 32))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_file(tmp_path_factory.mktemp("source"), "rwkv7", **TINY)


def rotated(folder: Path, **changes: object) -> Recipe:
    calibration = calibration_text(folder)
    recipe = recipe_for(QuantizeRequest(method="gptq", code_bits=8, head_bits=16, emb_bits=16, vector_bits=16, calibration=calibration))
    return replace(recipe, candidates=(EIGHT,), transform="hadamard", **changes)


def test_a_task_is_that_of_the_transformed_input() -> None:
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 6, 48))
    applied = transform_named("hadamard").make(48, 2)
    done = {}
    for name, transform in (("plain", transform_named("none").make(48, 2)), ("rotated", applied)):
        (done[name],) = perform(Task((Matrix("W", W, Setting("gptq", GridConfig(3, 32))),), QuantizerOptions(), H=H, transform=transform))
    undone = applied.undone(done["rotated"].quantised.decode().astype(np.float64))
    assert done["rotated"].error == pytest.approx(hessian_error(W, undone, H), rel=1e-3)
    assert done["rotated"].error != done["plain"].error
    assert hessian_error(W, done["rotated"].quantised.decode(), H) > 0.5  # without undoing it


def test_earlier_errors_are_corrected_in_the_transformed_space_too() -> None:
    """A correction that asks for another W* gets it, whatever the transform: with 8 bits, W* itself is what is left."""
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 6, 48))
    moment = 0.1 * torch.randn(6, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ H
    results = []
    for transform in (transform_named("none").make(48, 2), transform_named("hadamard").make(48, 2)):
        matrix = Matrix("W", W, EIGHT, cross_moment=moment)
        (done,) = perform(Task((matrix,), QuantizerOptions(), correction=1.0, H=H, transform=transform))
        results.append(transform.undone(done.quantised.decode().astype(np.float64)))
    assert hessian_error(torch.from_numpy(results[0]), results[1], H) < 1e-3 < hessian_error(W, results[1], H)


def test_a_model_with_rotated_inputs_is_the_same_model(tmp_path: Path, source: Path) -> None:
    recipe = rotated(tmp_path)
    result = quantize(source, tmp_path / "rotated.safetensors", recipe)
    packed = open_packed(tmp_path / "rotated.safetensors")
    packed.verify()
    named = {name: entry.input_transform.name for name, entry in packed.tensors.items()}
    assert named["blocks.1.att.key.weight"] == named["blocks.1.att.w1"] == "hadamard"
    assert named["head.weight"] == named["emb.weight"] == named["blocks.0.att.x_k"] == "none"
    assert result.bits_per_weight == plan_only(source, recipe).bits_per_weight
    quantize(source, tmp_path / "plain.safetensors", replace(recipe, transform="none"))
    logits = [load(path).forward([1, 2, 3])[0] for path in (source, tmp_path / "rotated.safetensors", tmp_path / "plain.safetensors")]
    spread = np.abs(logits[0]).max()
    assert np.abs(logits[1] - logits[0]).max() < 0.02 * spread and not np.array_equal(logits[1], logits[2])


def test_a_stopped_job_goes_on_to_the_same_bytes(tmp_path: Path, source: Path) -> None:
    recipe = rotated(tmp_path)
    whole, output = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    quantize(source, whole, recipe)
    with pytest.raises(StoppedError):
        quantize(source, output, recipe, work_dir=tmp_path / "work", stop=lambda: True)
    quantize(source, output, recipe, work_dir=tmp_path / "work", resume="required")
    assert output.read_bytes() == whole.read_bytes()


def test_another_seed_is_another_rotation(tmp_path: Path, source: Path) -> None:
    files = []
    for seed in (0, 1):
        quantize(source, tmp_path / f"{seed}.safetensors", rotated(tmp_path, seed=seed))
        files.append(open_packed(tmp_path / f"{seed}.safetensors").input_transform("blocks.0.att.key.weight"))
    assert [each.values["seed"] for each in files] == [0, 1]
    assert not np.array_equal(files[0].arrays["signs"], files[1].arrays["signs"])


def test_a_recipe_with_a_pass_1_has_no_transform(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transform must be none where measured is true"):
        rotated(tmp_path, measured=True)
    with pytest.raises(ConfigError, match="transform must be one of none, column-power, column-scale, hadamard; got rotate"):
        replace(rotated(tmp_path), transform="rotate")

"""A job may quantise matrices for transformed inputs: tasks are those of T x, the plan knows their size, and models stay the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from rwkvquant.results import QuantizeResult
from rwkvquant.runtime.session import load
from rwkvquant.transforms import transform_named
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file, fewest_of
from tests.quantizers.examples import matrix_and_hessian

EIGHT = Setting("gptq", GridConfig(8, 32))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_file(tmp_path_factory.mktemp("source"), "rwkv7", **TINY)


def rotated(folder: Path, **changes: object) -> Recipe:
    calibration = calibration_text(folder, rows=4)
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


@pytest.mark.parametrize("seed", [0, 2])
def test_rotated_gptq_is_gptq_of_the_rotated_matrix(seed: int) -> None:
    """QuaRot's definition, code for code: W T^T and T H T^T with T = diag(H_16, H_16, H_16) D / 4 written out."""
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 24, 48))
    applied, sylvester = transform_named("hadamard").make(48, seed), np.ones((1, 1))
    for _ in range(4):
        sylvester = np.block([[sylvester, sylvester], [sylvester, -sylvester]])
    signs = 1.0 - 2.0 * np.unpackbits(applied.arrays["signs"], bitorder="little")[:48]
    T = torch.from_numpy(np.kron(np.eye(3), sylvester) * signs / 4)
    turned = (W.double() @ T.T).to(W), (T @ H.double() @ T.T).to(H)
    codes = []
    for (weights, moments), transform in (((W, H), applied), (turned, transform_named("none").make(48, seed))):
        (done,) = perform(
            Task((Matrix("W", weights, Setting("gptq", GridConfig(3, 32))),), QuantizerOptions(), H=moments, transform=transform)
        )
        codes.append(done.quantised.codes)  # type: ignore[attr-defined]
    assert np.array_equal(*codes) and np.abs(np.diff(codes[0].astype(int))).sum() > 0


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


def test_transforms_that_do_not_fit_a_recipe_are_refused(tmp_path: Path) -> None:
    names = "none, column-power, hadamard, column-power-hadamard, column-scale"
    for field in ("transform", "text_transform"):
        with pytest.raises(ConfigError, match=f"{field} must be one of {names}; got rotate"):
            replace(rotated(tmp_path), **{"transform": "none", field: "rotate"})
    with pytest.raises(ConfigError, match="measured must be false with the transform column-scale: it is fitted in pass 2"):
        replace(rotated(tmp_path, measured=True), transform="column-scale")
    with pytest.raises(ConfigError, match="balanced must be false where the transform is not none or hadamard; got column-power"):
        replace(rotated(tmp_path, balanced=True), transform="column-power")
    with pytest.raises(ConfigError, match="text_transform must be none where there is a transform"):
        rotated(tmp_path, text_transform="hadamard")
    assert rotated(tmp_path, measured=True, balanced=True).transform_for("image") == "hadamard"


def default_of(folder: Path, **options: Any) -> Recipe:
    return fewest_of(bits=4, calibration=calibration_text(folder, rows=4), **options)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, source: Path) -> tuple[Path, QuantizeResult]:
    """A file of the default method, and its work directory."""
    folder = tmp_path_factory.mktemp("default")
    return folder, quantize(source, folder / "rotated.safetensors", default_of(folder), work_dir=folder / "work")


def test_the_default_method_rotates_all_but_the_head_and_what_is_stored_by_columns(
    source: Path, default: tuple[Path, QuantizeResult]
) -> None:
    folder, result = default
    assert result.bits_per_weight == plan_only(source, default_of(folder), work_dir=folder / "work").bits_per_weight  # signs are counted
    packed = open_packed(folder / "rotated.safetensors")
    plain = {name for name in packed.tensors if packed.input_transform(name).name == "none"}
    matrices = {name for name, entry in packed.tensors.items() if entry.role in ("projection", "lora")}
    assert matrices & plain == {name for name in matrices if name.endswith("ffn.value.weight")} and "head.weight" in plain
    assert {packed.input_transform(name).name for name in matrices - plain} == {"hadamard"}


def test_pass_1_measures_rotated_matrices(tmp_path: Path, source: Path, default: tuple[Path, QuantizeResult]) -> None:
    """What it says a candidate costs is what the candidate of the rotated matrix costs, not that of the plain one."""
    plan_only(source, default_of(tmp_path, own_options=("rotate=no",)), work_dir=tmp_path / "work")
    changed, plain = (
        {name: each["candidates"] for name, each in json.loads((folder / "work/plan.json").read_text())["state"]["tensors"].items()}
        for folder in (default[0], tmp_path)
    )
    same = {name for name in plain if plain[name] == changed[name]}
    assert same == {name for name in plain if name.endswith("ffn.value.weight")}


def test_a_transform_for_text_alone_is_not_in_models_for_images() -> None:
    recipe = recipe_for(QuantizeRequest())
    assert recipe.transform_for("text") == "hadamard" and recipe.transform_for("image") == "none"
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_rotation_is_asked_for_or_left_out() -> None:
    asked, without = (recipe_for(QuantizeRequest(own_options=(f"rotate={word}",))) for word in ("yes", "no"))
    assert asked.transform_for("text") == asked.transform_for("image") == "hadamard"
    assert without.transform_for("text") == without.transform_for("image") == "none"
    for options in ({"style": "paper"}, {"choice": "algorithm1"}, {"choice": "uniform"}):
        assert recipe_for(QuantizeRequest(**options)).transform_for("text") == "none"
        with pytest.raises(ConfigError, match="rotate goes with the style tuned and the choice error"):
            recipe_for(QuantizeRequest(**options, own_options=("rotate=yes",)))

"""The text runs through the blocks in bfloat16 where that is asked for, or faster in a large model; the file says what was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rwkvquant import ConfigError, QuantizeRequest, quantize
from rwkvquant.calibration.statistics import CrossStatistics, cross, inputs, rounded
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.formats.container import open_packed
from rwkvquant.models import RoundedMatrix
from rwkvquant.pipeline import forward
from rwkvquant.pipeline.forward import multiplied, settled, speed_of_bfloat16
from rwkvquant.recipes import Recipe, recipe_for
from tests.pipeline.toys import TINY, Notes, calibration_text, checkpoint_file, few_of

CPU = torch.device("cpu")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models count as large."""
    monkeypatch.setattr(forward, "LARGE_MODEL", 1)


def gains(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    monkeypatch.setattr(forward, "speed_of_bfloat16", lambda: gain)


def chosen(tmp_path: Path, device: str = "cpu", **options: Any) -> tuple[str, list[str]]:
    """What becomes of a request's forward_dtype, and what the user is told."""
    checkpoint, notes = open_checkpoint(checkpoint_file(tmp_path, "rwkv7", **TINY)), Notes()
    recipe = settled(recipe_for(QuantizeRequest(**options)), checkpoint, torch.device(device), notes)
    return recipe.forward_dtype, notes.notes


@pytest.mark.usefixtures("large")
def test_auto_is_bfloat16_where_that_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains(monkeypatch, 2.04)
    dtype, (note,) = chosen(tmp_path)
    assert dtype == "bfloat16" and "2.0 times" in note and "--forward-dtype float32" in note
    gains(monkeypatch, 1.1)
    assert chosen(tmp_path) == ("float32", [])


def test_auto_is_float32_in_a_small_model_on_a_gpu_and_without_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(forward, "speed_of_bfloat16")  # nothing is measured
    assert chosen(tmp_path) == ("float32", [])
    monkeypatch.setattr(forward, "LARGE_MODEL", 1)
    assert chosen(tmp_path, device="cuda") == ("float32", [])
    assert chosen(tmp_path, method="rtn", clip_search="weight") == ("float32", [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_asked_for_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.delattr(forward, "speed_of_bfloat16")
    assert chosen(tmp_path, forward_dtype=dtype) == (dtype, [])


def test_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="forward_dtype must be one of auto, float32, bfloat16; got float16"):
        recipe_for(QuantizeRequest(forward_dtype="float16"))


def test_measuring_leaves_the_number_of_threads_as_it_was() -> None:
    threads = torch.get_num_threads()
    assert speed_of_bfloat16() > 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_projections_alone_are_rounded(tmp_path: Path, arch: str) -> None:
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, arch, **TINY))
    block = {key: torch.ones(2, 2) for spec in checkpoint.architecture.table for key in spec.parts}
    recipe = dataclasses.replace(recipe_for(QuantizeRequest()), forward_dtype="bfloat16")
    found = {key for key, W in multiplied(recipe, checkpoint.architecture)(block).items() if isinstance(W, RoundedMatrix)}
    more = {"att.gate.weight", "ffn.receptance.weight"} if arch == "rwkv6" else set()
    assert (
        found == {f"att.{name}.weight" for name in ("receptance", "key", "value", "output")} | {"ffn.key.weight", "ffn.value.weight"} | more
    )
    float32 = multiplied(dataclasses.replace(recipe, forward_dtype="float32"), checkpoint.architecture)
    assert all(isinstance(W, Tensor) for W in float32(block).values())


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_every_run_of_the_text_multiplies_in_the_same_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    """Forward and backward in pass 1, both streams in pass 2: with bfloat16 no projection of a block is multiplied in float32."""
    products: list[str] = []
    real = RoundedMatrix.product

    def product(self: RoundedMatrix, x: Tensor) -> Tensor:
        products.append("with a gradient" if x.requires_grad else "without")
        return real(self, x)

    real_add = CrossStatistics.add

    def add(self: CrossStatistics, *parts: Tensor) -> None:
        before = len(products)
        real_add(self, *parts)
        assert products[before:] == ["without"] * isinstance(self.W, RoundedMatrix)
        del products[before:]

    monkeypatch.setattr(RoundedMatrix, "product", product)
    monkeypatch.setattr(CrossStatistics, "add", add)
    source, text = checkpoint_file(tmp_path, arch, **TINY), calibration_text(tmp_path)
    files = {}
    for dtype in ("float32", "bfloat16"):
        recipe = dataclasses.replace(few_of(bits=4.0, calibration=text), forward_dtype=dtype)
        files[dtype] = tmp_path / f"{dtype}.safetensors"
        quantize(source, files[dtype], recipe)
        if dtype == "float32":
            assert products == []
    a_block = 6 if arch == "rwkv7" else 8  # projections
    blocks = TINY["layers"]
    backward = products.count("with a gradient")
    assert backward and backward % (a_block * blocks) == 0
    assert products.count("without") % (a_block * blocks) == 0 and products.count("without") >= 4 * a_block * blocks
    packed = {dtype: open_packed(file) for dtype, file in files.items()}
    kept = {dtype: Recipe.from_json(file.quantization_config["recipe"]).forward_dtype for dtype, file in packed.items()}
    assert kept == {"float32": "float32", "bfloat16": "bfloat16"}
    assert "forward_dtype" not in packed["float32"].quantization_config["recipe"]  # as in files that were made before
    assert files["float32"].read_bytes() != files["bfloat16"].read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_over_the_text_are_rounded_as_the_products_of_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """H of pass 1 and of pass 2, and what is missing from the residual stream."""
    notes, real = Notes(), rounded.to_bfloat16
    phases: dict[str, set[str]] = {"inputs": set(), "cross": set()}

    def recorded(where: str) -> Callable[[Tensor], Tensor]:
        def to_bfloat16(x: Tensor) -> Tensor:
            phases[where].add(notes.phases[-1])
            return real(x)

        return to_bfloat16

    for module in (inputs, cross):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "to_bfloat16", recorded(name))
    recipe = dataclasses.replace(few_of(bits=4.0, calibration=calibration_text(tmp_path)), forward_dtype=dtype)
    quantize(checkpoint_file(tmp_path, "rwkv7", **TINY), tmp_path / "out.safetensors", recipe, progress=notes)
    reading = {phase for phase in notes.phases if phase.endswith("reading the text")}
    backward = {phase for phase in notes.phases if phase.endswith("sensitivities")}
    if dtype == "float32":
        assert phases == {"inputs": set(), "cross": set()}
    else:
        assert phases == {"inputs": reading | backward, "cross": reading - {next(p for p in notes.phases if p in reading)}}


@pytest.mark.usefixtures("large")
def test_work_of_a_cpu_that_chose_another_type_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = checkpoint_file(tmp_path, "rwkv7", **TINY), tmp_path / "out.safetensors"
    recipe = dataclasses.replace(few_of(bits=4.0, calibration=calibration_text(tmp_path)), forward_dtype="auto")
    gains(monkeypatch, 2.0)
    quantize(source, output, recipe, work_dir=tmp_path / "work")
    first = output.read_bytes()
    gains(monkeypatch, 1.0)
    with pytest.raises(ConfigError, match=r"plan\.json was made with another forward_dtype \(bfloat16, now float32\)"):
        quantize(source, output, recipe, work_dir=tmp_path / "work", resume="required")
    notes = Notes()
    quantize(source, output, dataclasses.replace(recipe, forward_dtype="bfloat16"), work_dir=tmp_path / "work", progress=notes)
    assert output.read_bytes() == first and any("pass 1 skipped" in note for note in notes.notes)

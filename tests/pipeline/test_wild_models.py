"""Models whose channels differ as those of released checkpoints do lose what plain models lose (benchmarks/wild_models.py edits them)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import open_packed
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import Recipe, recipe_for
from rwkvquant.results import QuantizeResult
from rwkvquant.runtime.session import load
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file, fewest_of, first_blocks

ROOT = Path(__file__).parents[2]
TRAINED, TOKENIZER, TEXT = ROOT / "tests/data/rwkv7-tiny.pth", ROOT / "tests/data/tokenizer.json", ROOT / "demo/eval.txt"
EDITS = ("output", "norm", "value", "head")


def edited(weights: dict[str, Tensor], edits: tuple[str, ...]) -> dict[str, Tensor]:
    spec = importlib.util.spec_from_file_location("wild_models", ROOT / "benchmarks/wild_models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., dict[str, Tensor]] = module.edited
    return function(weights, edits)


def edited_file(source: Path, out: Path, *edits: str) -> Path:
    torch.save(edited(torch.load(source, weights_only=True), edits or EDITS), out)
    return out


@pytest.fixture(scope="module", params=["rwkv7", "rwkv6"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model, and the same with all edits."""
    folder = tmp_path_factory.mktemp(request.param)
    source = checkpoint_file(folder, request.param, **TINY | {"layers": 1})
    return source, edited_file(source, folder / "edited.pth")


def written_and_planned(source: Path, out: Path, recipe: Recipe) -> tuple[QuantizeResult, QuantizeResult]:
    """Pass 1 runs once: its results are in the work directory."""
    work = out.with_suffix(".work")
    return quantize(source, out, recipe, work_dir=work), plan_only(source, recipe, work_dir=work)


def test_an_edited_model_computes_the_same(pair: tuple[Path, Path]) -> None:
    plain, changed = (load(path).forward([3, 1, 4, 1, 5])[0] for path in pair)
    np.testing.assert_allclose(changed, plain, atol=1e-3 * np.abs(plain).max())
    weights = [torch.load(path, weights_only=True) for path in pair]
    different = {name for name in weights[0] if not torch.equal(weights[0][name].float(), weights[1][name])}
    assert {name.rpartition("blocks.0.")[2] for name in different} >= {"att.output.weight", "ln1.weight", "ffn.value.weight", "head.weight"}


def test_only_models_with_channels_out_of_line_are_scaled(pair: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = fewest_of(bits=4, head_bits=4, calibration=calibration_text(tmp_path, rows=4), own_options=("rotate=no",))
    unlike, layouts = [], []
    for number, path in enumerate(pair):
        result, planned = written_and_planned(path, tmp_path / f"{number}.safetensors", recipe)
        packed = open_packed(tmp_path / f"{number}.safetensors")
        packed.verify()
        unlike.append({name for name in packed.tensors if packed.input_transform(name).name != "none"})
        assert result.bits_per_weight <= 4 and result.bits_per_weight == planned.bits_per_weight  # scales are counted
        layouts.append(packed)
    assert not unlike[0]
    first = {name.removeprefix("blocks.0.") for name in unlike[1] if "blocks.0." in name}
    assert first >= {"att.output.weight", "att.key.weight", "att.receptance.weight", "ffn.key.weight"} and "head.weight" in unlike[1]
    assert "blocks.0.ffn.value.weight" not in unlike[1]  # stored by columns: each has its own scale
    _, exponent = layouts[1].input_transform("blocks.0.att.output.weight").arrays["pairs"][:2]
    assert exponent > 9
    rounded = load(tmp_path / "1.safetensors").forward([3, 1, 4, 1, 5])[0]  # activations in 8 bits, of scaled channels
    exact = load(tmp_path / "1.safetensors", activations="float32").forward([3, 1, 4, 1, 5])[0]
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())


def test_channels_out_of_line_are_scaled_before_they_are_rotated(pair: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = fewest_of(bits=4, head_bits=4, calibration=calibration_text(tmp_path, rows=4))
    found = []
    for number, path in enumerate(pair):
        result, planned = written_and_planned(path, tmp_path / f"{number}.safetensors", recipe)
        packed = open_packed(tmp_path / f"{number}.safetensors")
        packed.verify()
        assert result.bits_per_weight <= 4 and result.bits_per_weight == planned.bits_per_weight
        found.append({name.removeprefix("blocks.0."): packed.input_transform(name).name for name in packed.tensors})
    assert set(found[0].values()) == {"none", "hadamard"}
    assert found[1]["att.output.weight"] == found[1]["att.key.weight"] == found[1]["ffn.key.weight"] == "column-power-hadamard"
    assert found[1]["head.weight"] == "column-power" and found[1]["ffn.value.weight"] == "none"
    rounded = load(tmp_path / "1.safetensors").forward([3, 1, 4, 1, 5])[0]
    exact = load(tmp_path / "1.safetensors", activations="float32").forward([3, 1, 4, 1, 5])[0]
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.long
def test_an_edited_model_loses_what_the_plain_one_loses(tmp_path: Path) -> None:
    """The bar is 1.1 times on the models of 8 million weights; this one is smaller and reads little text. GPTQ does lose more."""
    plain = first_blocks(TRAINED, 2, tmp_path / "plain.pth")
    sources = {"plain": plain, "edited": edited_file(plain, tmp_path / "edited.pth")}

    def times(method: str, tokens: int) -> float:
        """The loss of the edited model over that of the plain one."""
        losses = {}
        for name, source in sources.items():
            calibration = CalibrationConfig(path=str(TEXT), rows=4, length=128)
            recipe = fewest_of(method=method, bits=3.275, head_bits=4, calibration=calibration, tokenizer=str(TOKENIZER))
            quantize(source, out := tmp_path / f"{method}-{name}.safetensors", recipe)
            losses[name] = rwkvquant.compare(source, out, TEXT, max_tokens=tokens, tokenizer=str(TOKENIZER)).kl_mean
        return losses["edited"] / losses["plain"]

    assert times("rwkvquant", 2048) < 1.1
    assert times("gptq", 512) > 1.5


def test_the_recipe_says_whether_channels_are_scaled() -> None:
    recipe = recipe_for(QuantizeRequest())
    assert (
        recipe.balanced
        and recipe.text_transform == "hadamard"
        and recipe.transform == "none"
        and Recipe.from_json(recipe.to_json()) == recipe
    )
    assert not recipe_for(QuantizeRequest(own_options=("balance=no",))).balanced
    assert not recipe_for(QuantizeRequest(style="paper")).balanced and not recipe_for(QuantizeRequest(method="gptq")).balanced
    with pytest.raises(ConfigError, match="balanced must be false"):
        replace(recipe_for(QuantizeRequest(method="awq")), balanced=True)

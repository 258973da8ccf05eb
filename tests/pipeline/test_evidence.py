"""Selectors get what they ask for: it is measured once, kept in plan.json, and refused in a sentence where it cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.calibration.run_on import RunOn
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.models import CheckpointSource, text_stages
from rwkvquant.pipeline import kl_alone
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import Recipe
from tests.pipeline.toys import TINY, Notes, calibration_text, checkpoint_file, few_of, opened, projections


def of_selector(tmp_path: Path, selector: str, bits: float = 3.6) -> Recipe:
    text = calibration_text(tmp_path)
    return few_of(choice="share", own_options=(f"selector={selector}", "sq_share=0.5"), bits=bits, calibration=text, tokenizer="bytes")


@pytest.mark.parametrize("selector", ["mse", "kl"])
def test_what_a_selector_measures_is_kept_for_other_budgets(tmp_path: Path, selector: str) -> None:
    source, work, notes = checkpoint_file(tmp_path, "rwkv7", **TINY), tmp_path / "work", Notes()
    plan_only(source, of_selector(tmp_path, selector), notes, work_dir=work)
    tensors = json.loads((work / "plan.json").read_text())["state"]["tensors"]
    for name, one in tensors.items():
        measured = [candidate for candidate in one["candidates"] if selector in candidate]
        assert len(measured) == len(one["candidates"]) if selector == "mse" else 2 <= len(measured) <= 4, name
        assert {candidate["codec"] for candidate in measured} == {"uniform", "codebook"}
        assert all(candidate[selector] > 0 for candidate in measured)
    kinds = {name: one["chosen"]["codec"] for name, one in tensors.items()}
    assert set(kinds.values()) == {"uniform", "codebook"}

    again = Notes()
    plan_only(source, of_selector(tmp_path, selector), again, work_dir=work)
    assert any("pass 1 skipped" in note for note in again.notes)
    assert sum(again.steps) == (len(tensors) if selector == "mse" else 0)  # nothing is run again


def test_a_measured_choice_is_quantised_and_kept_in_the_file(tmp_path: Path) -> None:
    source, output = checkpoint_file(tmp_path, "rwkv6", **TINY), tmp_path / "out.safetensors"
    quantize(source, output, of_selector(tmp_path, "kl"))
    packed = opened(output)
    assert set(projections(packed).values()) == {"gptq", "gptvq"}
    assert packed.quantization_config["recipe"]["chooser"]["selector"] == "kl"


def test_kl_alone_is_that_of_the_matrix_rounded_with_the_inputs_it_sees(tmp_path: Path) -> None:
    """Without text kept out, so that the rows are known; the setting has no feedback, so that no Hessian matters."""
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, "rwkv7", **TINY))
    rows = np.random.default_rng(0).integers(0, 256, (4, 24))
    text = kl_alone.Calibration(rows, 0, "", text_stages("rwkv7"), 24)
    recipe = few_of(method="rtn", bits=3)
    setting, name = recipe.candidates[0], "blocks.1.ffn.key.weight"
    found = kl_alone.measure_alone(checkpoint, recipe, text, {name: [setting]}, torch.device("cpu"), Notes())
    W = torch.from_numpy(checkpoint.read_matrix(name))
    decoded = torch.from_numpy(kl_alone.quantize_matrix(setting, recipe.quantizer, W, None).decode())
    run = RunOn(text_stages("rwkv7"), CheckpointSource(checkpoint), rows, torch.device("cpu"))
    assert found == {name: [pytest.approx(float(run.kl(1, {"ffn.key.weight": decoded}).mean()))]}


def test_large_models_are_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl_alone, "MOST_WEIGHTS", 10)
    with pytest.raises(ConfigError, match=r"at most 10 weights; this one has .* Try the selector nats"):
        plan_only(checkpoint_file(tmp_path, "rwkv7", **TINY | {"layers": 1}), of_selector(tmp_path, "kl"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"choice": "share", "proxy": "unique"}, "proxy is not used by the selector nats"),
        ({"choice": "share", "own_options": ("fine_share=0.3",)}, "fine_share is not used by the selector nats"),
        ({"choice": "share", "own_options": ("selector=range", "order=3")}, "order is not used by the selector range"),
        ({"own_options": ("selector=range",)}, "selector goes with the choice share; the choice is error"),
        ({"choice": "fixed", "own_options": ("order=3",)}, "order goes with the choice algorithm1; the choice is fixed"),
        ({"choice": "algorithm1", "own_options": ("tau_c=1",)}, "tau_c goes with the choice fixed; the choice is algorithm1"),
        ({"choice": "share", "own_options": ("selector=coarse", "tau_f=9")}, "tau_f is not used by the selector coarse; leave it out"),
        ({"choice": "fixed", "own_options": ("tau_c=-1",)}, "tau_c must be 0 to"),
        ({"method": "paper", "choice": "share"}, "choice must be"),
        ({"method": "paper", "bits": 3.3, "own_options": ("fine_share=0.3",)}, "in other words; give bits or fine_share, not both"),
        ({"choice": "share", "own_options": ("sq_share=1.5",)}, "sq_share must be 0 to 1"),
    ],
)
def test_options_that_a_rule_does_not_use_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        few_of(**options)


def test_recipes_without_the_new_fields_are_saved_as_before() -> None:
    usual = few_of(choice="algorithm1")
    assert set(usual.to_json()["chooser"]) == {"rule", "proxy", "coarse_share", "fine_share", "bits", "required", "paper_count"}
    other = replace(usual, chooser=replace(usual.chooser, order=3, selector="range", sq_share=0.25, tau_c=2.0, tau_f=40.0))
    assert Recipe.from_json(json.loads(json.dumps(other.to_json()))) == other

"""Pass 1 tries every candidate of every matrix; its losses are those of calibration/sensitivity.py, of whole blocks of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.architectures import QUANTIZED_ROLES, Role
from rwkvquant.calibration.statistics import Sensitivity
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.models import text_stages
from rwkvquant.pipeline import measure as module
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.choose import choose_settings
from rwkvquant.pipeline.evidence import completed
from rwkvquant.pipeline.matrices import quantize_matrix, sampled_rows
from rwkvquant.pipeline.measure import Trial, measure
from rwkvquant.pipeline.plan_file import Measured
from rwkvquant.pipeline.settings import allowed_settings
from rwkvquant.pipeline.work_dir import work_directory
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.recipes import Recipe
from rwkvquant.selection.proxy import in_bfloat16, incoherence, proxies
from tests.pipeline.toys import TINY, Notes, checkpoint_file, few_of

TOKENS = np.random.default_rng(0).integers(0, 256, (4, 40))


@pytest.mark.parametrize(("rows", "cols"), [(1, 8), (16, 64), (40, 64), (64, 4096), (1000, 512), (4096, 1024), (2048, 30_000)])
def test_sampled_rows_are_whole_blocks_evenly_spread(rows: int, cols: int) -> None:
    found = sampled_rows((rows, cols), module.SAMPLED_WEIGHTS).tolist()
    blocks = sorted({row // 16 for row in found})
    assert found == [row for block in blocks for row in range(16 * block, min(16 * block + 16, rows))]
    assert blocks[0] == 0 and blocks[-1] == (rows - 1) // 16
    assert len(found) == rows or len(blocks) >= 2
    assert len(found) * cols <= max(2 * 16 * cols, 1 << 16)
    assert len(blocks) < 3 or max(np.diff(blocks)) - min(np.diff(blocks)) <= 1


def measured_model(tmp_path: Path, arch: str, recipe: Recipe) -> tuple[Checkpoint, dict[str, Measured]]:
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, arch, **TINY | {"layers": 1 if arch == "rwkv6" else 2}))
    read = Calibration(TOKENS, 0, "", text_stages(arch), TOKENS.shape[1])
    with work_directory(None, None, "auto", lambda: False, Notes()) as work:
        return checkpoint, measure(checkpoint, recipe, read, {}, tmp_path, torch.device("cpu"), Notes(), work.journal("plan.json", {}))


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_every_candidate_of_every_matrix_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    kept: dict[str, Sensitivity] = {}
    plain = module._measure_matrix

    def listening(trial: Trial) -> Measured:
        kept[trial.name] = trial.sensitivity
        return plain(trial)

    monkeypatch.setattr(module, "_measure_matrix", listening)
    recipe = few_of(tensor_bits=("att.key=3",))
    checkpoint, found = measured_model(tmp_path, arch, recipe)
    matrices = {m.name: m for m in checkpoint.logical_matrices() if m.spec.role in QUANTIZED_ROLES}
    settings = allowed_settings(recipe, list(matrices), checkpoint.architecture)
    assert list(found) == list(matrices)
    for name, one in found.items():
        W = checkpoint.read_matrix(name)
        assert [candidate.setting for candidate in one.candidates] == list(settings[name])
        assert [candidate.stored_bytes for candidate in one.candidates] == [s.stored_bytes(W.shape) for s in settings[name]]
        assert (one.weights, one.incoherence) == (W.size, incoherence(W))
        assert one.proxies["unique"]["fine"][2] == proxies(W, "unique").fine(4)
        assert one.proxies["paper"]["fine_signed"][4] == proxies(W, "paper").fine(6, signed=True)
        grids = [candidate for candidate in one.candidates if candidate.setting.kind == "uniform"]
        assert [c.loss for c in grids] == sorted((c.loss for c in grids), reverse=True)  # less with every bit

    name = "blocks.0.ffn.key.weight"  # all its rows are in the sample
    candidate, W, sensitivity = found[name].candidates[1], torch.from_numpy(checkpoint.read_matrix(name)), kept[name]
    H = sensitivity.inputs.H
    E = W - torch.from_numpy(quantize_matrix(candidate.setting, replace(recipe.quantizer, refined=False), W, Hessian(H, W.dtype)).decode())
    assert candidate.loss == pytest.approx(sensitivity.loss(E, torch.arange(len(W))), rel=1e-5) and candidate.loss > 0
    energy = torch.trace(W.double() @ H @ W.double().T)
    assert candidate.relative_error == pytest.approx(float(torch.trace(E.double() @ H @ E.double().T) / energy), rel=1e-5)
    lora = next(name for name, matrix in matrices.items() if matrix.spec.role is Role.LORA)
    assert caution(found[lora], kept[lora], checkpoint, recipe) == pytest.approx(2.0, rel=1e-5)


def caution(found: Measured, sensitivity: Sensitivity, checkpoint: Checkpoint, recipe: Recipe) -> float:
    """By how much a matrix's loss was multiplied."""
    candidate, W = found.candidates[0], torch.from_numpy(checkpoint.read_matrix(found.name))
    hessian = Hessian(sensitivity.inputs.H, W.dtype)
    E = W - torch.from_numpy(quantize_matrix(candidate.setting, replace(recipe.quantizer, refined=False), W, hessian).decode())
    return candidate.loss / sensitivity.loss(E, torch.arange(len(W)))


def test_a_sample_stands_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = few_of()
    losses = []
    for weights in (1 << 16, 1):
        monkeypatch.setattr(module, "SAMPLED_WEIGHTS", weights)
        _, found = measured_model(tmp_path, "rwkv6", recipe)
        losses.append({name: one.candidates[2].loss for name, one in found.items()})
    for name, loss in losses[0].items():
        assert losses[1][name] == pytest.approx(loss, rel=0.3), name
    assert losses[0]["blocks.0.ffn.key.weight"] != losses[1]["blocks.0.ffn.key.weight"]


def test_proxies_of_large_matrices_wait_for_a_rule_that_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, whole = measured_model(tmp_path, "rwkv6", few_of())
    monkeypatch.setattr(module, "ALWAYS_PROXIES", 0)
    _, without = measured_model(tmp_path, "rwkv6", few_of())
    assert all(found.proxies for found in whole.values()) and not any(found.proxies for found in without.values())
    for choice, own in (("algorithm1", ()), ("fixed", ()), ("error", ()), ("share", ("selector=range",))):
        recipe = few_of(choice=choice, own_options=own)
        known = [completed(checkpoint, recipe, measured, None, torch.device("cpu"), Notes()) for measured in (whole, without)]
        assert any(found.proxies for found in known[1].values()) == (choice != "error")
        chosen = [choose_settings(checkpoint, recipe, measured, {}, Notes()) for measured in known]
        assert chosen[0] == chosen[1]


def test_a_converted_matrix_has_the_proxies_of_its_first_type() -> None:
    """bfloat16 holds the weights; the checkpoint is in float16. Their gaps are those of bfloat16."""
    W = in_bfloat16(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    read = module.proxies_of(W, "float16")["dithered"]["coarse"]
    assert read == proxies(W, "dithered", "bfloat16").coarse != proxies(W, "dithered", "float16").coarse

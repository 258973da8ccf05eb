"""Rotations between two matrices with nothing in between: both are quantised rotated, and nothing is left for run time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile
from rwkvquant.models import CheckpointSource, PackedSource, TorchModel
from rwkvquant.pipeline.folding import fold_rotations
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import Recipe
from rwkvquant.runtime.session import load
from rwkvquant.transforms.hadamard import HADAMARD
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file, opened, recipe_of

TOKENS = torch.tensor([[7, 250, 3, 99, 99, 0, 42, 17, 5, 200, 31]])
PAIRS = {"blocks.0.att.a2": "blocks.0.att.a1", "blocks.1.att.a2": "blocks.1.att.a1", "blocks.1.att.v2": "blocks.1.att.v1"}


def rotating(folder: Path, *own: str) -> Recipe:
    return recipe_of(method="quarot", code_bits=8, head_bits=16, emb_bits=16, own_options=own, calibration=calibration_text(folder, 4))


def made(folder: Path, arch: str, *own: str) -> tuple[Path, PackedFile]:
    source, recipe, output = checkpoint_file(folder, arch, **TINY), rotating(folder, *own), folder / f"out{len(own)}"
    quantize(source, output, recipe)
    packed, planned = opened(output), plan_only(source, recipe)
    assert {t.name: t.stored_bytes for t in planned.tensors} == {t.name: t.stored_bytes for t in packed.ledger().items}
    return source, packed


def test_both_matrices_are_read_rotated_and_the_model_computes_the_same(tmp_path: Path) -> None:
    """By definition: T W1 and W2 T^T, with T as a matrix."""
    source = checkpoint_file(tmp_path, "rwkv7", **TINY)
    plain, edited = open_checkpoint(source), open_checkpoint(source)
    recipe = rotating(tmp_path)
    fold_rotations(edited, recipe)
    changed = set()
    for matrix in plain.logical_matrices():
        W, rotated = plain.read_matrix(matrix.name), edited.read_matrix(matrix.name)
        if not np.array_equal(W, rotated):
            changed.add(matrix.name)
    assert changed == {*PAIRS, *PAIRS.values()}
    for second, first in PAIRS.items():
        T = HADAMARD.make(8, recipe.seed).activations(np.eye(8, dtype=np.float32)).T
        assert np.allclose(T @ T.T, np.eye(8), atol=1e-6) and not np.allclose(T, np.eye(8))
        assert np.allclose(edited.read_matrix(first), T @ plain.read_matrix(first), atol=1e-6)
        assert np.allclose(edited.read_matrix(second), plain.read_matrix(second) @ T.T, atol=1e-6)
    ours, theirs = (TorchModel(CheckpointSource(each)).forward(TOKENS)[0] for each in (edited, plain))
    assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(("arch", "pairs"), [("rwkv7", PAIRS), ("rwkv6", {})])
def test_a_file_has_no_transform_where_it_is_folded(tmp_path: Path, arch: str, pairs: dict[str, str]) -> None:
    source, packed = made(tmp_path, arch)
    _, unfolded = made(tmp_path, arch, "fold=no")
    quantised = {name for name, entry in packed.tensors.items() if entry.role in ("projection", "lora")}
    for each, left in ((unfolded, set()), (packed, set(pairs))):
        assert {name for name in quantised if each.input_transform(name).name == "none"} == left
        assert {name for name, entry in each.tensors.items() if "rotation_folded_into" in entry.extra} == left
    for second, first in pairs.items():
        assert packed.entry(second).extra["rotation_folded_into"] == [first]
    original = TorchModel(CheckpointSource(open_checkpoint(source))).forward(TOKENS)[0]
    for each in (packed, unfolded):  # 8 bits lose little, folded or not, in both engines
        ours = TorchModel(PackedSource(each)).forward(TOKENS)[0]
        assert torch.linalg.norm(ours - original) <= 0.03 * torch.linalg.norm(original)
        native = load(each.path, activations="float32").forward(TOKENS[0].tolist(), logits="all")[0]
        assert np.abs(native - ours[0].numpy()).max() <= 1e-3 * float(ours.abs().max())


def test_a_file_has_the_codes_of_the_rotated_matrix(tmp_path: Path) -> None:
    source, packed = made(tmp_path, "rwkv7")
    W = open_checkpoint(source).read_matrix("blocks.1.att.v1")
    T = HADAMARD.make(8, 0).activations(np.eye(8, dtype=np.float32)).T
    stored = packed.input_transform("blocks.1.att.v1").undone(packed.qtensor("blocks.1.att.v1").decode())
    assert np.linalg.norm(stored - T @ W) <= 0.01 * np.linalg.norm(W) <= np.linalg.norm(stored - W)


def test_a_recipe_folds_only_what_can_be_folded() -> None:
    with pytest.raises(ConfigError, match="folded must be false where the transform is not one that is fitted or mixes channels; got none"):
        Recipe("gptq", recipe_of(method="gptq", code_bits=3).candidates, folded=True)

"""Every method, style and reading makes a file of a tiny model that verifies, meets its budget and runs as torch does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.codecs import CodebookTensor, PairCodebookTensor
from rwkvquant.config import PROXY_READINGS, STYLES, VECTOR_CODEBOOKS
from rwkvquant.formats.container import open_packed
from rwkvquant.models import PackedSource, TorchModel
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import METHODS
from rwkvquant.runtime.session import load
from tests.pipeline.toys import TINY, Notes, calibration_text, checkpoint_file, few_of, opened, projections, recipe_of

Options = dict[str, Any]
WIDE = {"width": 128, "head_size": 32, "layers": 1}  # where 3-bit vectors take less room than 16-bit ones
DIRECTIONS = ("direction_bits=12", "magnitude_bits=4")  # few, which are made quickly
BOTH: list[Options] = [
    {},
    {"method": "paper"},
    {"method": "readme"},
    {"method": "rtn"},
    {"method": "gptq", "bits": 5.0},
    {"method": "gptvq"},
    {"method": "kmeans"},
    {"method": "awq"},
    {"method": "quarot"},
    {"method": "gptaq", "code_bits": 3},
    {"method": "qronos", "code_bits": 3},
    {"method": "lnq", "own_options": ("groups=2",)},
    {"method": "vptq"},
    {"method": "pcdvq", "own_options": DIRECTIONS},
]
ONE: list[tuple[str, Options]] = [
    ("rwkv7", {"method": "rtn", "style": "paper", "bits": 4.5}),
    ("rwkv6", {"method": "gptq", "style": "paper", "code_bits": 3}),
    ("rwkv7", {"method": "gptvq", "style": "paper", "code_bits": 3, "codebook_rank": 4}),
    ("rwkv6", {"method": "kmeans", "style": "paper", "code_bits": 2, "codebook_size": 512}),
    ("rwkv6", {"method": "pcdvq", "style": "paper", "own_options": DIRECTIONS}),
    ("rwkv7", {"method": "awq", "style": "paper", "code_bits": 3}),
    ("rwkv6", {"method": "quarot", "style": "paper", "code_bits": 3, "own_options": ("feedback=no",)}),
    ("rwkv7", {"method": "gptaq", "style": "paper", "correction": 0.25}),
    ("rwkv6", {"method": "qronos", "style": "paper", "code_bits": 3}),
    ("rwkv7", {"method": "lnq", "style": "paper", "code_bits": 3, "own_options": ("groups=0",)}),
    ("rwkv6", {"method": "vptq", "style": "paper", "own_options": ("vector_length=2", "table_bits=6", "residual_bits=0")}),
    ("rwkv7", {"style": "paper", "bits": 4.0}),
    ("rwkv7", {"method": "gptvq", "code_bits": 3, "codebook_dim": 2}),
    ("rwkv6", {"method": "kmeans", "code_bits": 2, "codebook_dim": 2}),
    ("rwkv6", {"method": "rtn", "clip_search": "hessian", "code_bits": 3, "symmetric": True}),
    ("rwkv6", {"choice": "algorithm1", "proxy": "unique", "bits": 4.5, "correction": 0.0}),
]
CASES = [(arch, options) for options in BOTH for arch in ("rwkv6", "rwkv7")] + ONE


def test_every_method_and_style_is_tried() -> None:
    tried = {(recipe.method, recipe.quantizer.style) for recipe in (recipe_of(**options) for _, options in CASES)}
    forced = {(method, "tuned") for method in ("paper", "readme")}
    assert tried == {(method, style) for method in METHODS for style in STYLES} - forced


def runs_as_torch_does(path: Path) -> None:
    tokens = [7, 250, 3, 99, 99, 0, 42]
    ours, _ = load(path, activations="float32").forward(tokens, logits="all")
    theirs = TorchModel(PackedSource(open_packed(path))).forward(torch.tensor([tokens]))[0][0].numpy()
    assert np.isfinite(theirs).all() and theirs.std() > 0
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


@pytest.mark.parametrize(("arch", "options"), CASES, ids=lambda case: case if isinstance(case, str) else " ".join(map(str, case.values())))
def test_every_method_makes_a_file_that_runs(tmp_path: Path, arch: str, options: Options) -> None:
    recipe, out = few_of(**options, calibration=calibration_text(tmp_path, rows=4)), tmp_path / "out.safetensors"
    source = checkpoint_file(tmp_path, arch, **TINY | {"layers": 2 if recipe.correction else 1})
    notes = Notes()
    result = quantize(source, out, recipe, progress=notes)
    packed = opened(out)
    runs_as_torch_does(out)
    method, bits = recipe.method, recipe.chooser.bits
    if recipe.chooser.required:
        assert bits - 0.6 < result.bits_per_weight <= bits
    elif bits:
        assert result.bits_per_weight <= 3.275 or any("smallest reachable" in note for note in notes.notes)
    expected = {"rwkvquant": {"gptq", "gptvq"}, "paper": {"gptq", "gptvq"}, "readme": {"gptq", "gptvq"}}
    expected |= {"pcdvq": {"pcdvq", "ldlq"}, "awq": {"rtn"}, "quarot": {"gptq", "rtn"}}
    found = set(projections(packed).values())
    fallen = {"rtn" if name.startswith("gptq") else "kmeans" for name in found} if result.fallen_back else set()
    assert found and found <= expected.get(method, {method}) | fallen
    if options.get("codebook_dim") == 2:
        assert all(isinstance(packed.qtensor(name), PairCodebookTensor) for name in projections(packed))
    assert (method in ("paper", "readme")) == any("by the paper's arithmetic" in note for note in notes.notes)


@pytest.mark.parametrize("reading", VECTOR_CODEBOOKS)
def test_vector_codebooks_of_every_reading(tmp_path: Path, reading: str) -> None:
    """3-bit codebooks for every element-wise vector that they make smaller; the readings weight the elements differently."""
    source, out = checkpoint_file(tmp_path, "rwkv7", **TINY | WIDE), tmp_path / "out.safetensors"
    recipe = recipe_of(method="rtn", code_bits=4, vector_bits=3, vector_codebook=reading, calibration=calibration_text(tmp_path, rows=4))
    quantize(source, out, recipe)
    packed = opened(out)
    vectors = {name: packed.qtensor(name) for name, entry in packed.tensors.items() if entry.role == "elementwise"}
    assert len(vectors) >= 8 and all(isinstance(tensor, CodebookTensor) and tensor.bits == 3 for tensor in vectors.values())
    runs_as_torch_does(out)


def test_vectors_on_a_grid_of_three_bits(tmp_path: Path) -> None:
    source, out = checkpoint_file(tmp_path, "rwkv6", **TINY | WIDE), tmp_path / "out.safetensors"
    quantize(source, out, recipe_of(method="rtn", code_bits=4, vector_bits=3))
    packed = opened(out)
    layouts = {entry.layout for entry in packed.tensors.values() if entry.role == "elementwise"}
    assert layouts == {"uniform3.rows"}
    runs_as_torch_does(out)


@pytest.mark.parametrize("proxy", PROXY_READINGS)
def test_another_budget_or_choice_in_the_same_work_directory_skips_pass_1(tmp_path: Path, proxy: str) -> None:
    """And gives the same file as a separate run, where all matrices have the same candidates."""
    source = checkpoint_file(tmp_path, "rwkv7", **TINY | {"layers": 1})
    common = {"calibration": calibration_text(tmp_path, rows=4), "own_options": ("by_columns=no", "rotate=no")}
    quantize(source, tmp_path / "first", few_of(bits=4.4, **common), work_dir=tmp_path / "work")
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["lock", "plan.json"]
    other = few_of(choice="algorithm1", proxy=proxy, bits=4.0, **common)
    notes = Notes()
    quantize(source, tmp_path / "again", other, work_dir=tmp_path / "work", progress=notes)
    assert any(re.search("pass 1 skipped", note) for note in notes.notes) and not any("pass 1" in phase for phase in notes.phases)
    if proxy == "paper":
        fresh = Notes()
        quantize(source, tmp_path / "fresh", other, progress=fresh)
        assert any("pass 1" in phase for phase in fresh.phases)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "fresh").read_bytes() != (tmp_path / "first").read_bytes()
        changed = few_of(bits=4.4, damping=0.2, **common)
        plan_only(source, changed, fresh, tmp_path / "work")
        assert not any("skipped" in note for note in fresh.notes)


def test_a_plan_is_the_file_to_the_byte(tmp_path: Path) -> None:
    source, out = checkpoint_file(tmp_path, "rwkv6", **TINY | {"layers": 1}), tmp_path / "out.safetensors"
    recipe = few_of(bits=4.0, calibration=calibration_text(tmp_path, rows=4))
    planned, result = plan_only(source, recipe), quantize(source, out, recipe)
    sizes = [{t.name: (t.stored_bytes, t.layout) for t in r.tensors} for r in (planned, result)]
    assert sizes[0] == sizes[1]

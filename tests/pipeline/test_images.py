"""Models for images are quantised and packed like text models."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant import recipes
from rwkvquant.architectures import Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import GridConfig
from rwkvquant.config import CalibrationConfig
from rwkvquant.errors import ConfigError, StoppedError
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.kernels import vrwkv as definition
from rwkvquant.kernels.images import normalized
from rwkvquant.models import CheckpointSource, ImageModel, PackedSource
from rwkvquant.models import vrwkv as forward
from rwkvquant.pipeline.blocks import CalibrationRun
from rwkvquant.pipeline.calibrate import calibrate_with_images
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import Recipe, Setting
from tests.helpers import killed_at
from tests.pipeline.toys import Notes, few_of, fewest_of, recipe_of
from tests.vision import write_vrwkv

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 24, 3), dtype=np.uint8)
VARIANTS: list[dict[str, Any]] = [
    {"head": "head"},
    {"head": "decode_head", "layer_scale": True, "post_norm": True},
    {"head": "bbox_head", "key_norm": True, "final_norm": False},
    {"carried": True, "width": 40, "hidden": 72},
]


METHODS: list[dict[str, Any]] = [
    {"method": "rtn", "code_bits": 3, "clip_search": "hessian"},
    {"method": "gptq", "code_bits": 3},
    {"method": "gptq", "code_bits": 3, "style": "paper"},
    {"method": "gptq", "code_bits": 3, "correction": 0.5},
    {"method": "kmeans", "code_bits": 3, "vector_bits": 3, "vector_codebook": "mean_square"},
    {"method": "gptvq", "code_bits": 3, "vector_bits": 3, "vector_codebook": "paper"},
    {"method": "gptvq", "code_bits": 3, "codebook_dim": 2},
    {"method": "gptvq", "code_bits": 3, "style": "paper"},
    {"method": "paper"},
    {"method": "readme"},
    {"method": "rwkvquant", "bits": 9.5},
    {"method": "rwkvquant", "bits": 9.5, "choice": "algorithm1", "proxy": "dithered"},
    {"method": "pcdvq", "own_options": ("direction_bits=12", "magnitude_bits=4")},
    {"method": "awq", "code_bits": 3},
    {"method": "quarot", "code_bits": 3},
    {"method": "gptaq", "code_bits": 3},
    {"method": "qronos", "code_bits": 3},
    {"method": "lnq", "code_bits": 3},
    {"method": "vptq", "own_options": ("table_bits=6", "residual_bits=6")},
]


def image_set(folder: Path, count: int = 16, seed: int = 1) -> CalibrationConfig:
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 24, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images)
    return CalibrationConfig(path=str(folder / "images.npz"), rows=count, batch=4)


def packed_by(recipe: Recipe, source: Path) -> PackedFile:
    quantize(source, source.with_name("out.safetensors"), recipe)
    return open_packed(source.with_name("out.safetensors"))


def runs_as_the_definition_does(packed: PackedFile) -> None:
    """On decoded weights, and in float64."""
    weights = {}
    for name, spec, _ in packed.architecture.used(packed.dims.layers):
        if packed.uses(name):
            weights[name] = packed.decode(name).reshape(spec.forward_shape(packed.dims)).astype(np.float64)
    assert packed.image is not None
    pixels = normalized(IMAGES, packed.image.mean, packed.image.std).astype(np.float64)
    expected = definition.features(weights, pixels, packed.dims.patch, packed.image.grid, packed.image.post_norm)
    found = ImageModel(PackedSource(packed), packed.image).features(IMAGES).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("shape", VARIANTS)
def test_every_variant_is_packed_and_runs(tmp_path: Path, shape: dict[str, Any]) -> None:
    packed = packed_by(recipe_of(method="rtn", code_bits=4), write_vrwkv(tmp_path, **shape))
    packed.verify()
    runs_as_the_definition_does(packed)
    assert packed.task == {"head": "classify", "decode_head": "segment", "bbox_head": "detect"}.get(shape.get("head", ""))


def test_patches_and_heads_have_their_own_bits(tmp_path: Path) -> None:
    source = write_vrwkv(tmp_path, head="bbox_head", width=64)
    packed = packed_by(recipe_of(method="rtn", code_bits=3, head_bits=5, emb_bits=4), source)
    layouts = {role: {e.layout.split(".")[0] for e in packed.tensors.values() if e.role == role} for role in Role}
    assert layouts[Role.EMBEDDING] == {"uniform4"} and layouts[Role.HEAD] == {"uniform5"} and layouts[Role.PROJECTION] == {"uniform3"}
    assert not any(entry.layout.endswith(".rows") for entry in packed.tensors.values() if entry.role == Role.EMBEDDING)  # a product
    assert packed.tensors["bbox_head.conv.weight"].source_shape == (64, 64, 3, 3)


def test_sixteen_bits_keep_what_float16_holds(tmp_path: Path) -> None:
    source = write_vrwkv(tmp_path, head="bbox_head")
    packed = packed_by(recipe_of(method="rtn", code_bits=4, head_bits=16, emb_bits=16, vector_bits=16), source)
    checkpoint = open_checkpoint(source)
    for name, entry in packed.tensors.items():
        if entry.role in (Role.EMBEDDING, Role.HEAD, Role.ELEMENTWISE):
            values = checkpoint.read(name)
            assert entry.layout == "dense.f16" and entry.source_shape == values.shape
            assert np.array_equal(packed.decode(name).reshape(values.shape), values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("carried", [False, True])
def test_a_plan_is_the_file_to_the_byte(tmp_path: Path, carried: bool) -> None:
    source, recipe = write_vrwkv(tmp_path, carried=carried), recipe_of(method="rtn", bits=7)
    plan, packed = plan_only(source, recipe), packed_by(recipe, source)
    header = packed.ledger().header_bytes
    assert plan.output is None and plan.file_bytes + header == packed.file_bytes and plan.tokenizer is None


def test_every_method_is_tried() -> None:
    assert {options["method"] for options in METHODS} == set(recipes.METHODS)


@pytest.mark.parametrize(("options", "shape"), [(options, VARIANTS[i % 4]) for i, options in enumerate(METHODS)], ids=str)
def test_every_method_makes_a_file_that_runs(tmp_path: Path, options: dict[str, Any], shape: dict[str, Any]) -> None:
    packed = packed_by(few_of(**options, calibration=image_set(tmp_path)), write_vrwkv(tmp_path, **shape))
    packed.verify()
    runs_as_the_definition_does(packed)
    assert packed.provenance["calibration_images"] == [16, 3, 8, 24] and len(packed.provenance["calibration_sha256"]) == 64


@pytest.mark.parametrize("asked", [True, False])
def test_a_matrix_after_a_squared_relu_is_stored_by_columns_if_asked_but_not_after_a_key_norm(tmp_path: Path, asked: bool) -> None:
    options = {"own_options": ("by_columns=yes",)} if asked else {}
    recipe = fewest_of(calibration=image_set(tmp_path), **options)  # its bits are out of reach of so small a model: it takes the smallest
    for key_norm in (False, True):
        packed = packed_by(recipe, write_vrwkv(tmp_path, key_norm=key_norm))
        values = [entry.layout for name, entry in packed.tensors.items() if name.endswith("ffn.value.weight")]
        assert [layout == "sections.r512" for layout in values] == [asked and not key_norm] * 2


def test_statistics_of_a_block_are_those_of_its_inputs(tmp_path: Path) -> None:
    """Of images that quantisers see, and of those kept out; weights of vectors are means over images and patches."""
    source = write_vrwkv(tmp_path)
    checkpoint, recipe = open_checkpoint(source), recipe_of(calibration=image_set(tmp_path), vector_bits=3, vector_codebook="mean_square")
    calibration = calibrate_with_images(checkpoint, recipe, Notes())
    assert calibration is not None and calibration.kept_out == 2 and calibration.length == 12 and len(calibration.seen) == 14
    run = CalibrationRun(checkpoint, recipe, calibration, tmp_path, torch.device("cpu"), Notes())
    weights = CheckpointSource(checkpoint)
    outer, block = weights.globals(), weights.block(0)
    run.embed(outer, outer)
    found = run.collect(block, 0)

    heard: dict[str, torch.Tensor] = {}
    x, here = forward.embed(outer, torch.from_numpy(calibration.rows), 4, (2, 6))
    x = forward.block(block, x, here, False, heard.__setitem__)
    for statistics, rows in ((found.inputs, slice(14)), (found.kept_out, slice(14, 16))):
        assert statistics.keys() == checkpoint.architecture.product_inputs.keys()
        for name, sums in statistics.items():
            X = heard[name][rows].flatten(0, 1).double()
            torch.testing.assert_close(sums.H, X.T @ X / len(X), rtol=1e-4, atol=1e-6)
    for name, importance in found.importance.items():
        np.testing.assert_allclose(importance.weights, heard[name][:14].double().square().mean((0, 1)).numpy(), rtol=1e-4)
    assert found.importance.keys() == {"att.shift_delta", "ffn.shift_delta"}

    run.advance(block, block, 0)
    last = weights.block(1)
    run.collect(last, 1)
    run.advance(last, last, 1)
    of_head = run.collect_head(outer).inputs["head.x"]
    features = forward.features(outer, forward.block(last, x, here, False), here)[:14].mean((2, 3)).double()
    torch.testing.assert_close(of_head.H, features.T @ features / 14, rtol=1e-4, atol=1e-6)


def test_all_heads_of_a_detector_see_their_inputs(tmp_path: Path) -> None:
    source = write_vrwkv(tmp_path, head="bbox_head")
    packed = packed_by(recipe_of(method="gptq", code_bits=4, calibration=image_set(tmp_path)), source)
    heads = [entry for entry in packed.tensors.values() if entry.role == Role.HEAD]
    assert len(heads) == 4 and all(entry.method == "gptq" and 0 < entry.extra["relative_error"] < 0.05 for entry in heads)


@pytest.mark.parametrize("layer_scale", [True, False])
def test_norms_correct_the_residual_stream_where_they_follow_the_products(tmp_path: Path, layer_scale: bool) -> None:
    calibration = image_set(tmp_path)
    for post_norm in (True, False):
        source = write_vrwkv(tmp_path, post_norm=post_norm, layer_scale=layer_scale)
        plain, corrected = (
            packed_by(recipe_of(method="gptq", code_bits=3, correction=strength, calibration=calibration), source)
            for strength in (0.0, 0.5)
        )
        changed = {name.removeprefix("backbone.layers.1.") for name in plain.tensors if _differs(plain, corrected, name)}
        norms = {f"ln{n}.{part}" for n in (1, 2) for part in ("weight", "bias")}
        if post_norm:
            assert norms < changed
            first = {name for name in changed if name.startswith("backbone.layers.0.")}
            assert first == {f"backbone.layers.0.{name}" for name in norms}  # products of later blocks see other inputs
        else:
            assert not norms & changed and "ffn.value.weight" in changed


def _differs(first: PackedFile, second: PackedFile, name: str) -> bool:
    return not np.array_equal(first.decode(name), second.decode(name))


def test_norms_that_follow_products_bring_the_features_nearer_to_the_original(tmp_path: Path) -> None:
    source, calibration = write_vrwkv(tmp_path, post_norm=True, layer_scale=True), image_set(tmp_path)
    pixels = np.load(str(calibration.path))["images"]
    exact = ImageModel.of(open_checkpoint(source)).features(pixels)
    errors = []
    for strength in (0.0, 0.5, 1.0):
        packed = packed_by(
            recipe_of(method="rtn", clip_search="hessian", code_bits=3, correction=strength, calibration=calibration), source
        )
        assert packed.image is not None
        errors.append(float((ImageModel(PackedSource(packed), packed.image).features(pixels) - exact).square().mean()))
    assert errors[2] < errors[1] < errors[0]


def test_images_are_needed_and_others_give_another_file(tmp_path: Path) -> None:
    source = write_vrwkv(tmp_path)
    with pytest.raises(
        ConfigError, match=r"the method gptq reads images for calibration: give a folder of images or an \.npz with --calib"
    ):
        packed_by(recipe_of(method="gptq", code_bits=3), source)
    files = [packed_by(recipe_of(method="gptq", code_bits=3, calibration=image_set(tmp_path, seed=seed)), source) for seed in (1, 1, 2)]
    assert files[0].tensors == files[1].tensors != files[2].tensors


@pytest.mark.long
@pytest.mark.parametrize("post_norm", [False, True])
def test_a_job_with_images_that_is_killed_continues_to_the_same_bytes(tmp_path: Path, post_norm: bool) -> None:
    source, out, work = write_vrwkv(tmp_path, post_norm=post_norm), tmp_path / "out.safetensors", tmp_path / "work"
    grids = Setting("gptq", GridConfig(3)), Setting("gptq", GridConfig(4))
    recipe = replace(recipe_of(bits=9.5, calibration=image_set(tmp_path, count=8)), candidates=grids, for_images=())

    def run() -> None:
        quantize(source, out, recipe, work_dir=work)

    calls = killed_at(-1, run)  # in another process, as the kills
    expected, draw, kills = out.read_bytes(), random.Random(0), 0
    assert calls is not None
    (work / "plan.json").unlink()
    while kills < 6:
        out.unlink(missing_ok=True)
        died = killed_at(draw.randrange(1, calls), run) is None
        if not died or out.exists():
            assert out.read_bytes() == expected
        if not died:
            (work / "plan.json").unlink()  # begin with pass 1 again
        kills += died
    assert killed_at(-1, run) and out.read_bytes() == expected


def test_a_job_that_stops_after_any_block_continues_to_the_same_bytes_and_notices_other_images(tmp_path: Path) -> None:
    source, out, work = write_vrwkv(tmp_path), tmp_path / "out.safetensors", tmp_path / "work"
    recipe = replace(few_of(bits=9.5, calibration=image_set(tmp_path)), for_images=())
    quantize(source, out, recipe)
    expected = out.read_bytes()
    out.unlink()
    stops = 0
    while not out.exists():
        try:
            quantize(source, out, recipe, work_dir=work, stop=lambda: True)
        except StoppedError:
            stops += 1
    assert out.read_bytes() == expected and stops == 8

    out.unlink()
    (work / "plan.json").unlink()
    with pytest.raises(StoppedError):
        quantize(source, out, recipe, work_dir=work, stop=lambda: True)
    image_set(tmp_path, seed=2)
    with pytest.raises(ConfigError, match=r"plan.json was made with another calibration images\."):
        quantize(source, out, recipe, work_dir=work, resume="required")

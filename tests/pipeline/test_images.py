"""Models for images are quantised and packed like text models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkvquant.architectures import Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.kernels import vrwkv as definition
from rwkvquant.kernels.images import normalized
from rwkvquant.models import ImageModel, PackedSource
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import Recipe
from tests.pipeline.toys import recipe_of
from tests.vision import write_vrwkv

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 24, 3), dtype=np.uint8)
VARIANTS: list[dict[str, Any]] = [
    {"head": "head"},
    {"head": "decode_head", "layer_scale": True, "post_norm": True},
    {"head": "bbox_head", "key_norm": True, "final_norm": False},
    {"carried": True, "width": 40, "hidden": 72},
]


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

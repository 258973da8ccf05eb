"""A model for images by the native engine is the NumPy definition, with the same bits for any number of threads and of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant import load
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.bench.layouts import choose
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import PackedTensor
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels import dispatch, vrwkv
from rwkvquant.kernels.boxes import find_boxes
from rwkvquant.kernels.images import normalized
from rwkvquant.runtime import vision
from rwkvquant.runtime.engines.image_native import NativeImageEngine
from rwkvquant.runtime.vision import VisionModel
from rwkvquant.runtime.weights import Weights, checkpoint_weights
from tests.helpers import random_state_dict, write_pth
from tests.vision import random_vrwkv, with_meta

CLASSES = list("abcde")
HEADS = {"classify": "head", "segment": "decode_head", "detect": "bbox_head"}
KINDS = {
    "norms before": {},
    "norms after": {"layer_scale": True},
    "layer scale, norms before": {"layer_scale": True, "post_norm": False},
    "key norms": {"key_norm": True},
    "no last norm": {"final_norm": False},
    "width 40, grid 2 x 5": {"width": 40, "hidden": 72, "grid": (2, 5)},
    "width 192": {"width": 192, "hidden": 256, "layers": 1},
}


def write(tmp_path: Path, head: str = "head", **kind: Any) -> Path:
    """`post_norm` as `layer_scale`, if it is not said."""
    post_norm = kind.pop("post_norm", kind.get("layer_scale", False))
    grid = kind.get("grid", (3, 3))
    path = tmp_path / "vision.pth"
    config = {"img_size": [4 * side for side in grid], "post_norm": post_norm, "classes": CLASSES}
    torch.save(with_meta(random_vrwkv(head=head, **kind), **config), path)
    return path


def pictures(count: int, height: int = 12, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def definition(path: Path, images: np.ndarray, dtype: type = np.float64) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weights, and features (B, C, rows, columns)."""
    checkpoint = open_checkpoint(path)
    weights = {n: checkpoint.read(n).reshape(spec.forward_shape(checkpoint.dims)).astype(dtype) for n, spec, _ in checkpoint.specs()}
    settings = checkpoint.image
    assert settings is not None
    pixels = normalized(images, settings.mean, settings.std).astype(dtype)
    return weights, vrwkv.features(weights, pixels, checkpoint.dims.patch, settings.grid, settings.post_norm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 22)])
def test_the_engine_is_the_definition(kind: str, height: int, width: int, tmp_path: Path) -> None:
    """At most four times the error of the definition in float32: exp and sums over channels round otherwise."""
    path, images = write(tmp_path, **KINDS[kind]), pictures(2, height, width)
    model = load(path, modality="image")
    assert model.backend == dispatch.backend() != "reference"
    _, exact = definition(path, images)
    _, single = definition(path, images, np.float32)
    allowed = 4 * np.abs(single - exact).max() + 1e-6 * np.abs(exact).max()
    assert np.abs(np.stack(model.features(images)) - exact).max() <= allowed


@pytest.mark.parametrize("task", HEADS)
def test_the_heads_are_the_definition(task: str, tmp_path: Path) -> None:
    path, images = write(tmp_path, HEADS[task]), pictures(2)
    model = load(path, modality="image")
    assert model.task == task
    weights, features = definition(path, images)
    head = getattr(vrwkv, task)
    exact = head(weights, features, 12, 12) if task == "segment" else head(weights, features)
    for index, got in enumerate(model.logits(images)):
        parts = zip(got, exact, strict=True) if task == "detect" else [(got, exact)]
        for ours, whole in parts:
            np.testing.assert_allclose(ours, whole[index], rtol=0, atol=2e-5 * np.abs(whole).max())


@pytest.mark.parametrize("task", HEADS)
def test_threads_and_other_images_change_no_bit(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, images = write(tmp_path, HEADS[task], width=72, hidden=136), pictures(5, 20, 12)

    def bits(threads: int, *groups: slice) -> list[bytes]:
        model = load(path, threads=threads, modality="image")
        assert model.threads == threads
        found = [out for group in groups for out in model.logits(images[group])]
        return [b"".join(part.tobytes() for part in (out if isinstance(out, tuple) else (out,))) for out in found]

    together = bits(1, slice(0, 5))
    for threads in (1, 2, 3, 5):
        assert bits(threads, slice(0, 2), slice(2, 3), slice(3, 5)) == together
    monkeypatch.setattr(vision, "PATCHES_AT_ONCE", 1)  # each image alone
    assert bits(2, slice(0, 5)) == together


def test_the_bodies_give_the_same_bits(tmp_path: Path) -> None:
    from rwkvquant import _native
    from tests.kernels.guarded import body

    path, images = write(tmp_path, width=72, hidden=136), pictures(2)
    found = {}
    for isa in _native.available_isas():
        with body(isa):
            found[isa] = np.stack(load(path, modality="image").logits(images))
    for isa, logits in found.items():
        np.testing.assert_array_equal(logits, found["plain"], err_msg=isa)


@pytest.mark.parametrize("task", HEADS)
def test_the_reference_gives_the_same_within_rounding(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, images = write(tmp_path, HEADS[task], layer_scale=True), pictures(2)
    native = load(path, modality="image").logits(images)
    monkeypatch.setattr(dispatch, "native_module", lambda: None)
    model = load(path, modality="image")
    assert model.backend == "reference" and model.threads == 1
    for ours, plain in zip(native, model.logits(images), strict=True):
        for a, b in zip(ours, plain, strict=True) if task == "detect" else [(ours, plain)]:
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


def test_images_of_any_sizes_and_forms_keep_their_order(tmp_path: Path) -> None:
    model = load(write(tmp_path), modality="image")
    images = [pictures(1)[0], pictures(1, 8, 20, 1)[0], pictures(1, 8, 20, 2)[0], pictures(1, 5, 5, 3)[0][..., 0], pictures(1, seed=4)[0]]
    alone = [model.logits([image])[0] for image in images]
    for one, other in zip(model.logits(images), alone, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(model.logits(images[0])[0], alone[0])  # without a list
    np.testing.assert_array_equal(model.logits(images[3])[0], alone[3])
    grey = pictures(2)[..., 0]
    three = [np.repeat(image[..., None], 3, axis=2) for image in grey]
    np.testing.assert_array_equal(model.logits(grey), model.logits(three))
    assert model.logits([]) == []


def test_classify_gives_the_likeliest_classes_by_name(tmp_path: Path) -> None:
    model = load(write(tmp_path), modality="image")
    (result,) = model.classify(pictures(1))
    logits = model.logits(pictures(1))[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [score.index for score in result.top] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([score.probability for score in result.top], np.sort(expected)[::-1], rtol=1e-6)
    assert [score.name for score in result.top] == [CLASSES[score.index] for score in result.top]
    assert len(model.classify(pictures(3), top=2)[2].top) == 2
    assert result.to_json()["top"][0].keys() == {"index", "name", "probability"}


def test_segment_gives_the_class_of_each_pixel_and_shares(tmp_path: Path) -> None:
    model = load(write(tmp_path, "decode_head"), modality="image")
    (result,) = model.segment(pictures(1, 10, 14))
    np.testing.assert_array_equal(result.labels, model.logits(pictures(1, 10, 14))[0].argmax(0))
    assert result.labels.shape == (10, 14) and result.labels.dtype == np.uint8
    shares = {share.index: share.share for share in result.shares}
    assert shares == {index: (result.labels == index).mean() for index in np.unique(result.labels)}
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert result.to_json().keys() == {"height", "width", "shares"}


def test_detect_gives_boxes_from_a_threshold_on(tmp_path: Path) -> None:
    model = load(write(tmp_path, "bbox_head"), modality="image")
    everything = model.detect(pictures(1), threshold=0.0)[0].boxes
    found = find_boxes(*model.logits(pictures(1))[0], 4, 12, 12, -1.0)
    assert [box.score for box in everything] == found.scores.tolist() and len(everything) > 3
    np.testing.assert_array_equal([[box.left, box.top, box.right, box.bottom] for box in everything], found.corners)
    third = everything[2].score
    assert [box.score for box in model.detect(pictures(1), threshold=third)[0].boxes] == [box.score for box in everything[:3]]
    assert {box.name for box in everything} <= set(CLASSES)


class Defined:
    """x @ W.T by the definition of the packed product."""

    __array_ufunc__ = None

    def __init__(self, packed: PackedTensor, int8: bool) -> None:
        self.packed, self.int8 = packed, int8

    @property
    def T(self) -> Defined:
        return self

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])
        return self.packed.product(flat, self.int8).reshape(*x.shape[:-1], -1)


def packed_at_random(path: Path, preset: str) -> tuple[Weights, ImageSettings]:
    """A checkpoint's weights, with random codes in place of its projections."""
    checkpoint = open_checkpoint(path)
    weights, own = checkpoint_weights(checkpoint), checkpoint.architecture
    shapes = {name: packed.shape for name, packed in weights.matrices.items() if own.split(name)[0]}
    rng = np.random.default_rng(0)
    sparse = {name for name in shapes if name.endswith("ffn.value.weight")}
    chosen = choose(preset, shapes, 4.5, sparse)
    packed = {
        name: PackedTensor(packing, packing.codec.random_arrays(rng, packing, packing.shape[1] ** -0.5)) for name, packing in chosen.items()
    }
    assert checkpoint.image is not None
    return replace(weights, matrices=weights.matrices | packed), checkpoint.image


@pytest.mark.parametrize("activations", ["int8", "float32"])
@pytest.mark.parametrize("preset", ["default", "uniform", "codebook", "pairs"])
def test_packed_matrices_are_multiplied_as_defined(preset: str, activations: str, tmp_path: Path) -> None:
    """Rounding before a product may differ in the last bit, and then one activation in int8 by a step: 1/127 of its group's largest."""
    path = write(tmp_path, width=64, hidden=128)
    weights, settings = packed_at_random(path, preset)
    model = VisionModel(weights, settings, threads=2, activations=activations)
    images = pictures(2)
    plain = {name: packed.decode() for name, packed in weights.matrices.items()} | weights.vectors
    plain |= {"backbone.patch_embed.projection.weight": weights.embedding.decode()}
    blocks = {name: Defined(packed, activations == "int8") for name, packed in weights.matrices.items() if "layers" in name}
    pixels = normalized(images, settings.mean, settings.std)
    want = vrwkv.features(plain | blocks, pixels, 4, settings.grid, settings.post_norm)
    got = np.stack(model.features(images))
    assert np.abs(got - want).max() < (0.02 if activations == "int8" else 1e-5) * np.abs(want).max()
    assert np.abs(got - want).mean() < (1e-3 if activations == "int8" else 1e-6) * np.abs(want).max()
    exact = vrwkv.features(plain, pixels, 4, settings.grid, settings.post_norm)
    assert np.abs(got - exact).max() < (0.1 if activations == "int8" else 1e-5) * np.abs(exact).max()
    alone = VisionModel(weights, settings, threads=1, activations=activations).features(images[1])
    np.testing.assert_array_equal(alone[0], got[1])


def test_a_matrix_by_columns_needs_an_input_that_is_never_negative(tmp_path: Path) -> None:
    weights, settings = packed_at_random(write(tmp_path, width=64, hidden=128, key_norm=True), "default")
    with pytest.raises(FormatError, match=r"must have an input that is never negative \(backbone.layers.0.ffn.value.weight\)"):
        VisionModel(weights, settings)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"array of uint8.*got float32 \(4, 4, 3\)"),
        (np.zeros((1, 4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        (np.zeros((1, 0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"got uint8 \(4,\)"),
        ([7], "an image is the name of a file or a NumPy array; got int"),
        (np.zeros((2000, 2000, 3), np.uint8), "patches of 4 x 4 pixels at most; this array of 2000 x 2000 has 250,000"),
    ],
)
def test_other_arrays_are_refused(images: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path), modality="image").classify(images)


def test_a_head_for_something_else_is_said(tmp_path: Path) -> None:
    model = load(write(tmp_path, "decode_head"), modality="image")
    with pytest.raises(ConfigError, match="cannot classify images; its head can segment them"):
        model.classify(pictures(1))
    headless = load(write(tmp_path, ""), modality="image")
    assert headless.task is None and headless.features(pictures(1))[0].shape == (24, 3, 3)
    for call in (headless.logits, headless.detect):
        with pytest.raises(ConfigError, match="no head that this version knows"):
            call(pictures(1))


@pytest.mark.parametrize(("call", "message"), [("classify", "top must be at least 1"), ("detect", "threshold must be a score from 0 to 1")])
def test_options_out_of_range_are_refused(call: str, message: str, tmp_path: Path) -> None:
    model = load(write(tmp_path, HEADS[call]), modality="image")
    with pytest.raises(ConfigError, match=message):
        getattr(model, call)(pictures(1), -0.5 if call == "detect" else 0)


def test_load_knows_both_kinds_and_refuses_the_other_one(tmp_path: Path) -> None:
    images, text = write(tmp_path), write_pth(tmp_path / "text.pth", random_state_dict("rwkv7"))
    assert isinstance(load(images), VisionModel) and not isinstance(load(text), VisionModel)
    with pytest.raises(ConfigError, match=r"vision.pth: Vision-RWKV is a model for images, and this works with text models only"):
        load(images, modality="text")
    with pytest.raises(ConfigError, match=r"text.pth: RWKV-7 \(x070\) is a text model, and this works with models for images only"):
        load(text, modality="image")
    with pytest.raises(ConfigError, match="has no tokenizer; got world"):
        load(images, "world")
    with pytest.raises(ConfigError, match="activations must be one of int8, float32; got int4"):
        load(images, activations="int4")


def test_weights_that_do_not_fit_are_a_format_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path))
    weights, settings = checkpoint_weights(checkpoint), checkpoint.image
    assert settings is not None
    name = "backbone.layers.1.att.key.weight"
    for matrices, message in (
        ({n: m for n, m in weights.matrices.items() if n != name}, "needs this matrix"),
        (weights.matrices | {name: weights.embedding}, "24 x 24; got 24 x 48"),
    ):
        with pytest.raises(FormatError, match=f"{message}.*{name}"):
            NativeImageEngine(replace(weights, matrices=matrices), settings, 1)
    vector = "backbone.layers.1.ln1.bias"
    short = weights.vectors | {vector: np.zeros(3, np.float32)}
    with pytest.raises(FormatError, match=f"24 elements; got 3.*{vector}"):
        NativeImageEngine(replace(weights, vectors=short), settings, 1)

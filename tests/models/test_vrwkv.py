"""Vision-RWKV in NumPy and in torch is the published forward, written here once more with loops and torch's own convolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.kernels import vrwkv as definition
from rwkvquant.kernels.bi_wkv import bi_wkv_cuda, bi_wkv_dense
from rwkvquant.kernels.images import normalized
from rwkvquant.models import CheckpointSource, ImageModel, TorchModel, linear
from rwkvquant.models import vrwkv as forward
from rwkvquant.runtime.engines.reference import step_of
from tests.helpers import random_state_dict
from tests.vision import random_vrwkv, with_meta

PATCH = 4
VARIANTS = [
    {"layer_scale": scale, "key_norm": key_norm, "final_norm": final_norm}
    for scale, key_norm, final_norm in [(False, False, True), (True, False, True), (True, True, True), (False, True, False)]
]


def published(tensors: dict[str, Tensor], images: Tensor, grid: tuple[int, int], post_norm: bool) -> Tensor:
    """The features of OpenGVLab's classes with the formula of the paper, in float64, one patch and one block after the other."""
    T = {name.removeprefix("backbone."): tensor.double() for name, tensor in tensors.items() if name.startswith("backbone.")}
    height, width = images.shape[2:]
    images = functional.pad(images.double(), (0, -width % PATCH, 0, -height % PATCH))
    x = functional.conv2d(images, T["patch_embed.projection.weight"], T["patch_embed.projection.bias"], stride=PATCH)
    rows, columns = x.shape[2:]
    places = T["pos_embed"].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    if grid != (rows, columns):
        places = functional.interpolate(places, size=(rows, columns), mode="bicubic", align_corners=False)
    x = (x + places).flatten(2).transpose(1, 2)

    def norm(y: Tensor, name: str) -> Tensor:
        return functional.layer_norm(y, y.shape[-1:], T[f"{name}.weight"], T[f"{name}.bias"], 1e-5)

    def shifted(y: Tensor) -> Tensor:
        quarter, out = y.shape[-1] / 4, torch.zeros_like(y)
        for row in range(rows):
            for column in range(columns):
                for part, (from_row, from_column) in enumerate([(0, -1), (0, 1), (-1, 0), (1, 0)]):
                    r, c = row + from_row, column + from_column
                    if 0 <= r < rows and 0 <= c < columns:
                        channels = slice(int(quarter * part), int(quarter * (part + 1)))
                        out[:, row * columns + column, channels] = y[:, r * columns + c, channels]
        return out

    for layer in range(2):
        B = {name.removeprefix(f"layers.{layer}."): tensor for name, tensor in T.items() if name.startswith(f"layers.{layer}.")}

        def att(y: Tensor, B=B, layer=layer) -> Tensor:
            xx, tokens = shifted(y), y.shape[1]
            k, v, r = (
                (y * B[f"att.spatial_mix_{name[0]}"] + xx * (1 - B[f"att.spatial_mix_{name[0]}"])) @ B[f"att.{name}.weight"].T
                for name in ("key", "value", "receptance")
            )
            w, u = B["att.spatial_decay"] / tokens, B["att.spatial_first"] / tokens
            y = torch.from_numpy(bi_wkv_dense(w.numpy(), u.numpy(), k.numpy(), v.numpy()))
            y = norm(y, f"layers.{layer}.att.key_norm") if "att.key_norm.weight" in B else y
            return (torch.sigmoid(r) * y) @ B["att.output.weight"].T

        def ffn(y: Tensor, B=B, layer=layer) -> Tensor:
            xx = shifted(y)
            k, r = (y * B[f"ffn.spatial_mix_{c}"] + xx * (1 - B[f"ffn.spatial_mix_{c}"]) for c in "kr")
            k = torch.relu(k @ B["ffn.key.weight"].T) ** 2
            k = norm(k, f"layers.{layer}.ffn.key_norm") if "ffn.key_norm.weight" in B else k
            return torch.sigmoid(r @ B["ffn.receptance.weight"].T) * (k @ B["ffn.value.weight"].T)

        if layer == 0:
            x = norm(x, "layers.0.ln0")
        for index, mix in ((1, att), (2, ffn)):
            name = f"layers.{layer}.ln{index}"
            y = norm(mix(x), name) if post_norm else mix(norm(x, name))
            x = x + (B[f"gamma{index}"] * y if f"gamma{index}" in B else y)
    if "ln1.weight" in T:
        x = norm(x, "ln1")
    return x.transpose(1, 2).reshape(len(x), -1, rows, columns)


def numpy_weights(tensors: dict[str, Tensor], dtype: type = np.float64) -> dict[str, np.ndarray]:
    """As the NumPy forward takes them."""

    def shaped(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), -1) if values.ndim == 4 else values.ravel() if values.shape[:2] == (1, 1) else values

    return {name: shaped(tensor.numpy().astype(dtype)) for name, tensor in tensors.items()}


def in_torch(tensors: dict[str, Tensor], images: Tensor, grid: tuple[int, int], post_norm: bool, dtype: torch.dtype) -> Tensor:
    weights = {name: torch.from_numpy(values).to(dtype) for name, values in numpy_weights(tensors).items()}
    x, here = forward.embed(weights, images.to(dtype), PATCH, grid)
    for layer in range(2):
        prefix = f"backbone.layers.{layer}."
        x = forward.block({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}, x, here, post_norm)
    return forward.features(weights, x, here)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(VARIANTS),
    st.booleans(),
    st.tuples(st.integers(2, 4), st.integers(2, 5)),
    st.integers(1, 18),
    st.integers(1, 18),
    st.sampled_from([8, 21]),
    st.integers(1, 3),
)
def test_both_are_the_published_forward_for_any_grid_and_image(variant, post_norm, grid, height, width, channels, batch) -> None:
    tensors = random_vrwkv(grid=grid, width=channels, **variant)
    images = torch.randn((batch, 3, height, width), generator=torch.Generator().manual_seed(height))
    expected = published(tensors, images, grid, post_norm).numpy()
    in_numpy = definition.features(numpy_weights(tensors), images.double().numpy(), PATCH, grid, post_norm)
    np.testing.assert_allclose(in_numpy, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(in_torch(tensors, images, grid, post_norm, torch.float64).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_is_close_to_float64(variant) -> None:
    tensors, grid = random_vrwkv(**variant), (3, 3)
    images = torch.randn((2, 3, 12, 20), generator=torch.Generator().manual_seed(1))
    exact = published(tensors, images, grid, True).numpy()
    single = definition.features(numpy_weights(tensors, np.float32), images.numpy(), PATCH, grid, True)
    assert single.dtype == np.float32
    for result in (single, in_torch(tensors, images, grid, True, torch.float32).numpy()):
        assert np.abs(result - exact).max() < 1e-4 * np.abs(exact).max()  # layer norms divide by small deviations; 2e-6 is usual


def test_an_image_alone_has_the_features_it_has_in_a_batch() -> None:
    tensors = random_vrwkv()
    images = torch.randn((3, 3, 12, 12), generator=torch.Generator().manual_seed(1))
    together = in_torch(tensors, images, (3, 3), False, torch.float64)
    alone = torch.cat([in_torch(tensors, images[i : i + 1], (3, 3), False, torch.float64) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_the_cuda_kernels_arithmetic_can_take_the_place_of_the_formula() -> None:
    tensors = random_vrwkv(grid=(8, 8), width=8)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32))
    results = [definition.features(numpy_weights(tensors), images, PATCH, (8, 8), False, wkv) for wkv in (bi_wkv_dense, bi_wkv_cuda)]
    difference = np.abs(results[0] - results[1]).max()
    assert 1e-6 < difference < 0.2


@pytest.fixture(params=["head", "decode_head", "bbox_head"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Tensor], ImageModel]:
    tensors = random_vrwkv(head=request.param, layer_scale=True, grid=(3, 4))
    torch.save(with_meta(tensors, img_size=[12, 16], post_norm=True), tmp_path / "model.pth")
    return request.param, tensors, ImageModel.of(open_checkpoint(tmp_path / "model.pth"))


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 13, 18, 3), np.uint8)


def test_heads_are_convolutions_of_the_features(model) -> None:
    head, tensors, image_model = model
    features = published(tensors, torch.from_numpy(normalized(PIXELS, image_model.settings.mean, image_model.settings.std)), (3, 4), True)
    D = {name.removeprefix(f"{head}."): tensor.double() for name, tensor in tensors.items() if name.startswith(head)}
    weights = numpy_weights(tensors)

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return functional.conv2d(x, D[f"{name}.weight"], D[f"{name}.bias"], **options)

    if head == "head":
        expected = (functional.linear(features.mean((2, 3)), D["fc.weight"], D["fc.bias"]),)
        results = (image_model.classify(PIXELS),)
        in_numpy = (definition.classify(weights, features.numpy()),)
    elif head == "decode_head":
        expected = (functional.interpolate(conv("conv_seg", features), size=(13, 18), mode="bilinear", align_corners=False),)
        results = (image_model.segment(PIXELS),)
        in_numpy = (definition.segment(weights, features.numpy(), 13, 18),)
    else:
        hidden = torch.relu(conv("conv", features, padding=1))
        expected = tuple(conv(f"conv_{name}", hidden) for name in ("cls", "reg", "centerness"))
        results = image_model.detect(PIXELS)
        in_numpy = definition.detect(weights, features.numpy())
    for one, other, right in zip(results, in_numpy, expected, strict=True):
        np.testing.assert_allclose(other, right.numpy(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(one.numpy(), right.numpy(), rtol=2e-4, atol=2e-4)


def test_other_heads_are_refused_by_name(model) -> None:
    head, _, image_model = model
    assert image_model.task == {"head": "classify", "decode_head": "segment", "bbox_head": "detect"}[head]
    for task in {"classify", "segment", "detect"} - {image_model.task}:
        with pytest.raises(ConfigError, match=f"no head to {task}; its head can {image_model.task}"):
            getattr(image_model, task)(PIXELS)


@pytest.mark.parametrize("images", [np.zeros((1, 8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((1, 8, 8, 4), np.uint8)])
def test_images_of_another_form_are_refused(model, images) -> None:
    with pytest.raises(ConfigError, match="images must be uint8, "):
        model[2].features(images)


def test_a_grey_image_is_the_same_in_all_colours(model) -> None:
    grey = PIXELS[..., 0]
    torch.testing.assert_close(model[2].features(grey), model[2].features(np.repeat(grey[..., None], 3, -1)))


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    torch.save(random_state_dict("rwkv7"), tmp_path / "text.pth")
    checkpoint = open_checkpoint(tmp_path / "text.pth")
    with pytest.raises(ConfigError, match=r"RWKV-7 \(x070\) is a text model; use TorchModel"):
        ImageModel.of(checkpoint)
    with pytest.raises(ConfigError, match="models of vrwkv do not read tokens"):
        step_of("vrwkv")
    assert TorchModel(CheckpointSource(checkpoint)).arch == "rwkv7"


@pytest.mark.parametrize("key_norm", [False, True])
@pytest.mark.parametrize("head", ["head", "decode_head", "bbox_head"])
def test_every_matrix_is_fed_by_the_tap_that_the_table_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, key_norm: bool):
    torch.save(random_vrwkv(head=head, key_norm=key_norm), tmp_path / "model.pth")
    source = CheckpointSource(open_checkpoint(tmp_path / "model.pth"))
    fed: dict[int, Tensor] = {}
    taps: list[dict[str, Tensor]] = [{}, {}, {}]

    def recording_linear(x, W):
        fed[id(W)] = x
        return linear(x, W)

    def listener(named: dict[str, Tensor]):
        def tap(name: str, tensor: Tensor) -> None:
            assert name not in named, f"{name} is tapped twice"
            named[name] = tensor

        return tap

    monkeypatch.setattr(forward, "linear", recording_linear)
    outer, blocks = source.globals(), [source.block(0), source.block(1)]
    x, here = forward.embed(outer, torch.randn(2, 3, 12, 12), PATCH, (3, 3), listener(taps[2]))
    for block, named in zip(blocks, taps, strict=False):
        x = forward.block(block, x, here, False, listener(named))
    features = forward.features(outer, x, here)
    if head == "decode_head":
        forward.segment(outer, features, 12, 12, listener(taps[2]))
    else:
        getattr(forward, {"head": "classify", "bbox_head": "detect"}[head])(outer, features, tap=listener(taps[2]))

    own = ARCHITECTURES["vrwkv"]
    for block, named in zip(blocks, taps, strict=False):
        for spec in own.table:
            if spec.input is not None:
                assert torch.equal(fed[id(block[spec.name])], named[spec.input]), spec.name
        assert set(named) == {tapped for spec in own.table for tapped in (spec.input, spec.partner) if tapped is not None}
    for spec in own.outside:
        if spec.input is not None and spec.name in outer:
            assert torch.equal(fed[id(outer[spec.name])], taps[2][spec.input]), spec.name


def test_shift_delta_is_what_the_mixes_multiply(tmp_path: Path) -> None:
    """x mu + shifted (1 - mu) = shifted + (x - shifted) mu."""
    x = torch.randn((2, 12, 8), dtype=torch.float64)
    shifted = torch.from_numpy(definition.q_shift(x.numpy(), (3, 4)))
    torch.testing.assert_close(forward.q_shift(x, (3, 4)), shifted, rtol=0, atol=0)
    mu, delta = torch.rand(8, dtype=torch.float64), x - shifted
    torch.testing.assert_close(x + delta * (mu - 1), x * mu + shifted * (1 - mu))
    torch.testing.assert_close(x + delta * (mu - 1), shifted + delta * mu)

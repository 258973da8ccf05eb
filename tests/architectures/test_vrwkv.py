"""Vision-RWKV checkpoints are read with any head; what the architecture does not know is carried along or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.architectures.vrwkv import family_of
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.errors import CheckpointError
from tests.vision import random_vrwkv, with_meta


def opened(folder: Path, contents: object) -> Checkpoint:
    torch.save(contents, folder / "model.pth")
    return open_checkpoint(folder / "model.pth")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("key_norm", [False, True])
@pytest.mark.parametrize("layer_scale", [False, True])
@pytest.mark.parametrize("head", ["head", "decode_head", "bbox_head", ""])
def test_every_variant_is_recognised_by_its_shapes(tmp_path: Path, head: str, layer_scale: bool, key_norm: bool, half: bool) -> None:
    tensors = random_vrwkv(head=head, layer_scale=layer_scale, key_norm=key_norm)
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    checkpoint = opened(tmp_path, {"state_dict": tensors, "meta": {"epoch": 3}})
    assert checkpoint.arch == "vrwkv" and checkpoint.layout == "opengvlab" and not checkpoint.carried
    dims = checkpoint.dims
    assert (dims.layers, dims.width, dims.hidden, dims.patch, dims.channels, dims.positions) == (2, 24, 40, 4, 3, 9)
    assert dims.classes == (5 if head else 0)
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert np.array_equal(checkpoint.read(name), tensor.float().numpy())
    assert checkpoint.image is not None and checkpoint.image.post_norm == layer_scale


def test_kernels_of_convolutions_are_matrices(tmp_path: Path) -> None:
    tensors = random_vrwkv(head="bbox_head")
    checkpoint = opened(tmp_path, tensors)
    shapes = {matrix.name: matrix.shape for matrix in checkpoint.logical_matrices()}
    assert shapes["bbox_head.conv.weight"] == (24, 9 * 24) and shapes["bbox_head.conv_cls.weight"] == (5, 24)
    assert np.array_equal(checkpoint.read_matrix("bbox_head.conv.weight"), tensors["bbox_head.conv.weight"].reshape(24, -1).numpy())
    assert len(shapes) == 2 * 7 + 4


@pytest.mark.parametrize("name", ["vrwkv-t", "vrwkv-s", "vrwkv-b", "vrwkv-l"])
def test_released_sizes_have_a_family(name: str) -> None:
    assert family_of(ARCHITECTURES["vrwkv"].released[name]) == name


def test_another_size_has_no_family(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, random_vrwkv())
    assert family_of(checkpoint.dims) is None and checkpoint.summary()["image"]["family"] is None


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("form", [lambda said: {"post_norm": said}, lambda said: f"model = dict(\n    post_norm={said},\n)"])
def test_the_meta_data_decide_where_the_norms_are(tmp_path: Path, form, said: bool) -> None:
    for layer_scale in (True, False):
        contents = {"state_dict": random_vrwkv(layer_scale=layer_scale), "meta": {"config": form(said)}}
        image = opened(tmp_path, contents).image
        assert image is not None and image.post_norm is said


def test_vrwkv_t_in_an_adapter_has_layer_scale_and_norms_before(tmp_path: Path) -> None:
    image = opened(tmp_path, random_vrwkv(width=192, hidden=8, layer_scale=True)).image
    assert image is not None and not image.post_norm


def test_rows_and_columns_come_from_the_images_size(tmp_path: Path) -> None:
    tensors = random_vrwkv(grid=(2, 6))
    image = opened(tmp_path, with_meta(tensors, img_size=[9, 27], classes=list("abcde"))).image
    assert image is not None and image.grid == (2, 6) and image.classes == tuple("abcde")
    with pytest.raises(CheckpointError, match="has 12 patches, which are not a square, and nothing says how many are in a row"):
        opened(tmp_path, tensors)
    square = opened(tmp_path, with_meta(random_vrwkv(grid=(4, 4)), img_size=99)).image  # not the size of this position embedding
    assert square is not None and square.grid == (4, 4)


@pytest.mark.parametrize("meta", [{}, {"config": 3}, {"config": {"img_size": "12", "post_norm": 1, "classes": [1, 2, 3, 4, 5]}}, [1]])
def test_meta_data_of_another_kind_count_as_missing(tmp_path: Path, meta: object) -> None:
    image = opened(tmp_path, {"state_dict": random_vrwkv(), "meta": meta}).image
    assert image is not None and (image.grid, image.post_norm, image.classes) == ((3, 3), False, ())


UPERNET = {
    "decode_head.conv_seg.weight": torch.ones(7, 512, 1, 1),
    "decode_head.conv_seg.bias": torch.ones(7),
    "decode_head.fpn_convs.0.bn.running_mean": torch.ones(512),
    "decode_head.fpn_convs.0.bn.num_batches_tracked": torch.tensor(3),
    "backbone.spm.stem.0.weight": torch.ones(2, 3, 3, 3),
    "backbone.level_embed": torch.ones(3, 24),
    "neck.lateral_convs.0.conv.bias": torch.ones(9),
}


def test_a_head_that_is_not_ours_is_carried_along(tmp_path: Path) -> None:
    tensors = random_vrwkv(head="")
    checkpoint = opened(tmp_path, {"state_dict": tensors | UPERNET})
    expected = set(UPERNET) - {"decode_head.fpn_convs.0.bn.num_batches_tracked"}
    assert set(checkpoint.carried) == expected and set(checkpoint.tensors) == set(tensors) and checkpoint.dims.classes == 0
    for name in expected:
        assert np.array_equal(checkpoint.read(name), UPERNET[name].numpy())
    summary = checkpoint.summary()
    assert summary["parameters_by_role"]["carried"] == sum(UPERNET[name].numel() for name in expected)
    assert {row["name"] for row in summary["tensors"] if row["role"] == "carried"} == expected


def test_part_of_a_head_is_carried_along(tmp_path: Path) -> None:
    tensors = random_vrwkv(head="bbox_head")
    del tensors["bbox_head.conv_reg.bias"]
    assert {name.split(".")[0] for name in opened(tmp_path, tensors).carried} == {"bbox_head"}


@pytest.mark.parametrize("name", ["backbone.post_norms.0.weight", "backbone.layers.1.att.gate.weight", "backbone.cls_token"])
def test_an_unknown_tensor_of_the_backbone_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"Vision-RWKV has no tensor {name}; "):
        opened(tmp_path, random_vrwkv() | {name: torch.ones(24)})


def test_every_tensor_of_the_backbone_is_required(tmp_path: Path) -> None:
    tensors = random_vrwkv(layers=1)
    for name in tensors:
        if name.startswith("backbone.ln1.") or not name.startswith("backbone."):
            continue
        with pytest.raises(CheckpointError, match=f"(lacks {name}, |no tensor here)"):
            opened(tmp_path, {other: tensor for other, tensor in tensors.items() if other != name})


def test_a_model_without_its_last_norm_is_read(tmp_path: Path) -> None:
    assert "backbone.ln1.weight" not in opened(tmp_path, random_vrwkv(final_norm=False)).tensors


def test_names_of_other_classes_are_left_out(tmp_path: Path) -> None:
    image = opened(tmp_path, with_meta(random_vrwkv(classes=5), classes=list("abcd"))).image
    assert image is not None and image.classes == ()


def test_vrwkv6_is_refused_by_its_name(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in random_vrwkv().items() if "spatial_" not in name or "ffn" in name}
    tensors |= {f"backbone.layers.{layer}.att.time_maa_x": torch.ones(1, 1, 24) for layer in range(2)}
    with pytest.raises(CheckpointError, match=r"VRWKV6 \(Vision-RWKV with the time mix of RWKV-6\) is not supported; "):
        opened(tmp_path, {"state_dict": tensors})

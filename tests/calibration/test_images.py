"""The pass backward over images is that of the whole model, for every kind of head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.architectures.image import MEAN, STD
from rwkvquant.calibration.activations import collect_activation
from rwkvquant.calibration.images import calibration_images
from rwkvquant.calibration.posteriors import OF_TASK
from rwkvquant.calibration.sensitivity import Backward, ModelParts
from rwkvquant.calibration.statistics import Sensitivity
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import ImageError
from rwkvquant.images import png_bytes
from rwkvquant.models import CheckpointSource, ImageStages
from rwkvquant.models import vrwkv as forward
from tests.vision import write_vrwkv

COUNT, HEIGHT, WIDTH, BATCH, SEED = 5, 8, 20, 2, 4
PIXELS = np.random.default_rng(0).normal(size=(COUNT, 3, HEIGHT, WIDTH)).astype(np.float32)
TASKS = {"head": "classify", "decode_head": "segment", "bbox_head": "detect", "": None}


class Listened:
    def __init__(self, W: Tensor) -> None:
        self.W = W

    def product(self, x: Tensor) -> Tensor:
        self.x, self.y = x, functional.linear(x, self.W)
        self.y.retain_grad()
        return self.y


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("head", TASKS)
def test_blocks_backward_are_the_whole_model_backward(tmp_path: Path, head: str, post_norm: bool) -> None:
    checkpoint = open_checkpoint(write_vrwkv(tmp_path, head=head, post_norm=post_norm, layer_scale=post_norm))
    source, task = CheckpointSource(checkpoint), checkpoint.architecture.task_in(checkpoint.tensors)
    assert task == TASKS[head] and checkpoint.image is not None
    stages = ImageStages("vrwkv", checkpoint.image, 4, task, HEIGHT, WIDTH)
    assert stages.here == (2, 5)
    parts = ModelParts(
        *(stages, source.globals, source.block, checkpoint.architecture, 2, 24, torch.device("cpu"), OF_TASK[task]), answers=16
    )
    backward = Backward(parts, PIXELS, BATCH, tmp_path, SEED, length=10)
    backward.forward()
    found = {(layer, key): each for layer, _, sensitivities in backward.blocks() for key, each in sensitivities.items()}

    outer, draws, expected = source.globals(), torch.Generator().manual_seed(SEED), dict[tuple[int, str], Sensitivity]()
    for start in range(0, COUNT, BATCH):
        heard = {}
        x, here = forward.embed(outer, torch.from_numpy(PIXELS[start : start + BATCH]), 4, (2, 6))
        x = x.requires_grad_(True)
        for layer in range(2):
            weights = source.block(layer)
            for key in checkpoint.architecture.matrix_keys:
                weights[key] = heard[layer, key] = Listened(weights[key])
            x = forward.block(weights, x, here, post_norm)
        features = forward.features(outer, x, here)
        if task == "segment":
            output = forward.segment(outer, features, HEIGHT, WIDTH)
        else:
            output = features if task is None else getattr(forward, task)(outer, features)
        OF_TASK[task](output, draws).backward()
        for place, matrix in heard.items():
            assert matrix.y.grad is not None
            expected.setdefault(place, Sensitivity(*matrix.W.shape))
            expected[place].add(matrix.x.detach().flatten(0, 1), matrix.y.grad.flatten(0, 1))
    assert found.keys() == expected.keys() and len(found) == 14
    for place, sensitivity in found.items():
        scale = float(expected[place].rows.max())
        assert scale > 0
        torch.testing.assert_close(sensitivity.rows / scale, expected[place].rows / scale, rtol=2e-3, atol=1e-5)
        torch.testing.assert_close(sensitivity.inputs.H, expected[place].inputs.H, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["head", "decode_head", "bbox_head"])
def test_activations_are_those_of_the_taps(tmp_path: Path, head: str) -> None:
    checkpoint = open_checkpoint(write_vrwkv(tmp_path, head=head))
    source, stages = CheckpointSource(checkpoint), ImageStages.of(checkpoint, HEIGHT, WIDTH)
    heard: dict[tuple[int | None, str], Tensor] = {}
    outer = source.globals()
    x = stages.embed(outer, torch.from_numpy(PIXELS))
    for layer in range(2):
        x, *_ = stages.block(source.block(layer), x, None, None, lambda name, X, layer=layer: heard.update({(layer, name): X}))
    stages.head(outer, x, lambda name, X: heard.update({(None, name): X}))
    for (layer, name), X in heard.items():
        found = collect_activation(source, PIXELS, layer, name, batch=BATCH, stages=stages)
        assert found.shape[1] == (1 if (head, layer) == ("head", None) else 10)
        np.testing.assert_allclose(found, X.detach().reshape(found.shape).numpy(), rtol=1e-4, atol=1e-5)


def test_calibration_images_are_evenly_spread_over_the_classes_and_mixed(tmp_path: Path) -> None:
    """Folders are sorted by class; the images of this set have one value each, 10 times their class."""
    for kind in range(8):
        (tmp_path / "set" / str(kind)).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((16, 16, 3), 10 * kind, np.uint8)
            (tmp_path / "set" / str(kind) / f"{number}.png").write_bytes(png_bytes(pixels))
    checkpoint = open_checkpoint(write_vrwkv(tmp_path))
    images = calibration_images(tmp_path / "set", checkpoint, 16)
    assert images.shape == (16, 3, 8, 24)  # resized to what the model reads
    mean, std = MEAN[0], STD[0]
    classes = [round((float(image[0].mean()) * std + mean) / 10) for image in images]
    assert sorted(classes) == sorted([*range(8)] * 2) and len(set(classes[:6])) > 3 and len(set(classes[-6:])) > 3
    assert np.array_equal(images, calibration_images(tmp_path / "set", checkpoint, 16))
    assert not np.array_equal(images, calibration_images(tmp_path / "set", checkpoint, 16, seed=1))
    with pytest.raises(ImageError, match="there is no such file or folder"):
        calibration_images(tmp_path / "none", checkpoint, 16)


def test_the_loss_of_images_counts_the_error_of_an_image_whole() -> None:
    """KL = 1/2 mean over images of (sum over patches and rows of g_tr E_r . x_t)^2, computed patch by patch."""
    rng = np.random.default_rng(0)
    x, g, E = rng.normal(size=(5, 3, 4)), rng.normal(size=(5, 3, 6)), rng.normal(size=(2, 4))
    rows = torch.tensor([5, 2])
    found = Sensitivity(6, 4, rows_of_images=rows)
    for part in (slice(0, 2), slice(2, 5)):
        found.add(torch.from_numpy(x[part]).float(), torch.from_numpy(g[part]).float())
    changes = [sum(g[i, t, r] * E[place] @ x[i, t] for t in range(3) for place, r in enumerate(rows.tolist())) for i in range(5)]
    assert found.loss(torch.from_numpy(E).float(), rows) == pytest.approx(0.5 * np.mean(np.square(changes)), rel=1e-5)
    np.testing.assert_allclose(found.rows.numpy(), np.square(g).mean((0, 1)), rtol=1e-5)

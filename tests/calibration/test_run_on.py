"""The KL of one changed matrix is that of the whole model with this matrix changed, from every layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.calibration.run_on import RunOn
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.models import CheckpointSource, text_stages
from rwkvquant.pipeline.transforms import input_name
from tests.pipeline.toys import TINY, checkpoint_file

TOKENS = np.random.default_rng(0).integers(0, 256, (3, 20))
CPU = torch.device("cpu")


class Changed(CheckpointSource):
    """A checkpoint with one matrix of one layer halved."""

    where: tuple[int, str]

    def block(self, layer: int) -> dict[str, torch.Tensor]:
        block = super().block(layer)
        if layer == self.where[0]:
            block[self.where[1]] = block[self.where[1]] / 2
        return block


def logits(source: CheckpointSource) -> torch.Tensor:
    """The whole forward, in float64 after the head."""
    stages, outer = text_stages(source.arch), source.globals()
    x, carry = stages.embed(outer, torch.from_numpy(TOKENS)), None
    for layer in range(source.dims.layers):
        x, _, made = stages.block(source.block(layer), x, None, carry, None)
        carry = made if layer == 0 else carry
    return stages.head(outer, x, None).double().log_softmax(-1)


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_kl_of_one_matrix_is_that_of_the_whole_model(tmp_path: Path, arch: str) -> None:
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, arch, **TINY))
    source = CheckpointSource(checkpoint)
    run = RunOn(text_stages(arch), source, TOKENS, CPU)
    p = logits(source)
    for layer in (0, 1):
        for key in ("att.value.weight", "ffn.key.weight"):
            changed = Changed(checkpoint)
            changed.where = layer, key
            q = logits(changed)
            expected = (p.exp() * (p - q)).sum(-1).mean(-1)
            found = run.kl(layer, {key: changed.block(layer)[key]})
            assert found.shape == (3,) and torch.all(found > 0)
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-12), (layer, key)


def test_no_change_has_no_kl(tmp_path: Path) -> None:
    source = CheckpointSource(open_checkpoint(checkpoint_file(tmp_path, "rwkv7", **TINY)))
    run = RunOn(text_stages("rwkv7"), source, TOKENS, CPU)
    assert torch.all(run.kl(1, {}).abs() < 1e-14)


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_inputs_are_those_of_every_product(tmp_path: Path, arch: str) -> None:
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, arch, **TINY))
    run = RunOn(text_stages(arch), CheckpointSource(checkpoint), TOKENS, CPU)
    found = run.inputs(1, checkpoint.architecture)
    assert all(statistics.tokens == TOKENS.size for statistics in found.values())
    products = [each for each in checkpoint.logical_matrices() if each.layer == 1 and each.spec.role in QUANTIZED_ROLES]
    for each in products:
        assert found[input_name(each) or ""].H.shape == (each.shape[1], each.shape[1])

"""Rounded inputs are those of the NumPy definition, in every product with codes and in no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import GridConfig
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.models import CheckpointSource, InputRounding, PackedSource
from rwkvquant.models.few_bits import RoundedInput
from rwkvquant.transforms import transform_named
from tests.formats.examples import uniform

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("width", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("group", [32, 64])
def test_eight_bits_are_the_engines_to_the_bit(width: int, group: int) -> None:
    x = np.random.default_rng(width).standard_normal((2, 3, width)).astype(np.float32)
    x[0, 0], x[0, 1] = 0, 1e-42  # zeros, and a scale that is subnormal
    found = InputRounding(8, group).rounded(torch.from_numpy(x)).numpy()
    for at in np.ndindex(2, 3):
        steps, scale = quantize_activations(x[at], group)
        assert np.array_equal(found[at], (steps.reshape(-1, group) * scale[:, None]).reshape(-1)[:width]), at


@pytest.mark.parametrize(("bits", "values"), [(2, 3), (3, 7), (4, 15)])
def test_few_bits_have_as_many_values_and_the_nearest_is_taken(bits: int, values: int) -> None:
    x = torch.linspace(-1, 1, 64)[None]
    y = InputRounding(bits, 64).rounded(x)
    step = 2 / (values - 1)
    assert len(y.unique()) == values
    assert (y - x).abs().max() <= step / 2 * (1 + 1e-6)
    assert torch.allclose(y / step, (y / step).round(), atol=1e-5)


def test_a_value_that_is_not_finite_is_seen() -> None:
    assert InputRounding(4, 64).rounded(torch.tensor([[1.0, float("inf")]])).isnan().any()
    assert InputRounding(4, 64).rounded(torch.tensor([[1.0, float("nan")]])).isnan().any()


def test_a_transform_comes_before_rounding() -> None:
    tensor = uniform(np.random.default_rng(0), (16, 96), GridConfig(4, 32))
    applied = transform_named("hadamard").make(96, 3)
    x, W, rounding = torch.randn(2, 5, 96), torch.from_numpy(tensor.decode()), InputRounding(4, 32)
    changed = torch.from_numpy(applied.activations(x.reshape(10, 96).numpy())).reshape(2, 5, 96)
    y = rounding.of(W, applied).product(x)
    assert torch.equal(y, torch.nn.functional.linear(rounding.rounded(changed), W))
    assert not torch.allclose(
        y, torch.nn.functional.linear(rounding.rounded(x), torch.from_numpy(applied.undone(tensor.decode()))), atol=1e-2
    )


def test_matrices_in_codes_have_rounded_inputs_and_no_others() -> None:
    packed = open_packed(DATA / "rwkv7-tiny-rtn4.safetensors")
    source = PackedSource(packed, inputs=InputRounding(4, 64))
    for layer in (None, 0, 1):
        weights = source.globals() if layer is None else source.block(layer)
        for name, weight in weights.items():
            full = name if layer is None else packed.architecture.full_name(layer, name)
            entry = packed.entry(full)
            codes = entry.packing.codec.quantizes and entry.role in ("projection", "lora", "head")
            assert isinstance(weight, RoundedInput) == codes, full
    assert isinstance(source.block(0)["att.w1"], RoundedInput)


def test_a_checkpoint_has_them_in_projections_and_lora_factors() -> None:
    source = CheckpointSource(open_checkpoint(DATA / "rwkv7-tiny.pth"), inputs=InputRounding(4, 64))
    block = source.block(0)
    rounded = {name for name, weight in block.items() if isinstance(weight, RoundedInput)}
    assert rounded == {
        name for name, weight in CheckpointSource(open_checkpoint(DATA / "rwkv7-tiny.pth")).block(0).items() if is_matrix(name)
    }
    assert not any(isinstance(weight, RoundedInput) for weight in source.globals().values())


def is_matrix(name: str) -> bool:
    return name.endswith(("key.weight", "value.weight", "receptance.weight", "output.weight")) or name[-2:] in {
        f"{letter}{which}" for letter in "wavg" for which in "12"
    }

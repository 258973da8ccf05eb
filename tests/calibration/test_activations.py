"""The distribution of an activation is that of the values from the model's own taps, with NumPy's histogram."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.calibration.activations import PERCENTILES, Distribution, collect_activation, distribution
from rwkvquant.calibration.partners import PartnerTap
from rwkvquant.calibration.statistics import Importance
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import CalibrationError
from rwkvquant.models import CheckpointSource, forward_of
from tests.helpers import TEXT, random_state_dict, write_pth

ROWS, LENGTH, LAYERS = 5, 12, 2
TOKENS = np.random.default_rng(1).integers(0, 256, (ROWS, LENGTH))


def source_of(arch: str, folder: Path, scale: float = 1.0) -> CheckpointSource:
    state = random_state_dict(arch, layers=LAYERS)
    state["blocks.0.att.key.weight"] *= scale
    return CheckpointSource(open_checkpoint(write_pth(folder / "model.pth", state)))


def tapped(source: CheckpointSource) -> dict[tuple[int | None, str], torch.Tensor]:
    """Every activation, by (layer, name), of one whole forward."""
    model, outer, result = forward_of(source.arch), source.globals(), {}
    x, carry = model.embed(outer, torch.from_numpy(TOKENS)), None
    for layer in range(LAYERS):
        x, _, carry = model.block(
            source.block(layer), x, None, carry, lambda name, value, layer=layer: result.update({(layer, name): value.clone()})
        )
    model.head(outer, x, lambda name, value: result.update({(None, name): value}))
    return result


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("arch", TEXT)
def test_activations_are_those_of_the_models_own_taps(arch: str, batch: int, tmp_path: Path) -> None:
    source = source_of(arch, tmp_path)
    for (layer, name), value in tapped(source).items():
        for index in range(5) if name == "att.maa_hidden" else [None]:
            expected = (value if index is None else value[index]).reshape(ROWS, LENGTH, -1).numpy()
            result = collect_activation(source, TOKENS, layer, name, index, batch)
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5, err_msg=f"{layer} {name}")


@pytest.mark.parametrize("name", ["att.shift_delta", "att.r_times_k", "ffn.hidden"])
def test_counts_are_those_of_numpy_for_the_values_of_the_taps(name: str, tmp_path: Path) -> None:
    source = source_of("rwkv7", tmp_path)
    result = distribution(collect_activation(source, TOKENS, 1, name), 99.0)
    values = tapped(source)[1, name].double().numpy()
    counts = np.histogram(values, [-np.inf, *result.edges[1:-1], np.inf])[0]
    assert result.counts.tolist() == counts.tolist() and result.counts.sum() == result.count == values.size
    np.testing.assert_allclose(result.edges[[0, -1]], [values.min(), values.max()], rtol=1e-5)
    np.testing.assert_allclose([result.mean, result.std], [values.mean(), values.std()], rtol=1e-5)
    np.testing.assert_allclose([result.percentiles[p] for p in PERCENTILES], np.percentile(values, PERCENTILES), rtol=1e-4, atol=1e-6)
    assert result.zeros == np.mean(values == 0)
    channels = (values.reshape(ROWS * LENGTH, -1) ** 2).mean(0)
    np.testing.assert_allclose(result.mean_square, channels, rtol=1e-4)
    assert result.largest_channels(3) == sorted(range(len(channels)), key=lambda c: -channels[c])[:3]


def normal_values() -> NDArray[np.float32]:
    return (2 + 3 * np.random.default_rng(0).standard_normal((4, 250, 100))).astype(np.float32)


def test_normal_values_have_the_counts_of_the_normal_distribution() -> None:
    result = distribution(normal_values(), 99.0)
    deviation = np.sqrt(result.normal * (1 - result.normal / result.count))
    assert (np.abs(result.counts - result.normal) < 5 * deviation + 1).all()
    assert result.normal.sum() == pytest.approx(result.count)
    assert result.kurtosis == pytest.approx(3, abs=0.1)
    assert result.clip_high == pytest.approx(2 + 3 * 2.326, rel=0.02) and result.clip_share == pytest.approx(0.02, abs=1e-4)


def test_bins_are_half_a_deviation_wide_and_wider_in_the_tails() -> None:
    result = distribution(np.concatenate([normal_values(), np.full((4, 1, 100), 90, np.float32)], axis=1), 99.0)
    z = (result.edges - result.mean) / result.std
    core = z[np.abs(z) < 3.1]
    np.testing.assert_allclose(core[1:-1], np.arange(len(core) - 2) / 2 + core[1], atol=1e-9)
    assert z[-2] > 3.9 and result.edges[-1] == 90 and result.counts[-1] == 400


def test_the_clip_is_that_of_the_elementwise_weights() -> None:
    """Importance clips each row to its own percentiles, and averages. With one channel, its weights show the same clip."""
    X = np.random.default_rng(3).standard_t(2, (6, 400, 1)).astype(np.float32) + np.arange(6, dtype=np.float32)[:, None, None]
    result = distribution(X, 90.0)
    low, high = np.percentile(X[:, :, 0].astype(np.float64), [10, 90], axis=1)
    assert (result.clip_low, result.clip_high) == (pytest.approx(low.mean()), pytest.approx(high.mean()))
    tap = PartnerTap(ARCHITECTURES["rwkv7"].table, lambda width: Importance(width, "paper", 90.0))
    tap("att.k", torch.from_numpy(X))
    clipped = X[:, :, 0].clip(low[:, None], high[:, None])
    assert tap.sums["att.k"].weights == pytest.approx([clipped.mean() ** 2], rel=1e-5)
    assert result.clip_share == np.mean(X[:, :, 0] != clipped)


def test_values_that_are_all_the_same_are_one_bin() -> None:
    result: Distribution = distribution(np.full((2, 3, 4), 0.1, np.float32), 99.0)
    assert result.counts.tolist() == [24] and result.normal.tolist() == [24.0] and result.std == 0 and math.isnan(result.kurtosis)
    assert result.edges[0] < 0.1 < result.edges[1]


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"att.k in block 0 holds values that are not finite"):
        collect_activation(source_of("rwkv7", tmp_path, scale=2e38), TOKENS, 0, "att.k")

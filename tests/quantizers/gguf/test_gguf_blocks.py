"""llama.cpp's block types: bytes as the `gguf` package decodes them, and less output error than nearest values."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from rwkvquant.quantizers.gguf import gptq as module
from rwkvquant.quantizers.gguf.blocks import pack
from rwkvquant.quantizers.gguf.gptq import BlockCodes, gptq, nearest
from rwkvquant.quantizers.gguf.grids import GRIDS, Scales, find_scales

ROWS, COLS = 20, 512


@pytest.fixture(scope="module")
def case() -> tuple[Tensor, Tensor]:
    """W, and H of inputs that depend on one another; some columns are large, one input is always 0, one row is 0."""
    generator = torch.Generator().manual_seed(0)
    W = 0.1 * torch.randn(ROWS, COLS, generator=generator)
    W[:, :3] *= 5
    W[7] = 0
    X = torch.randn(2000, COLS, generator=generator) @ (torch.eye(COLS) + 0.1 * torch.randn(COLS, COLS, generator=generator))
    X[:, 100] = 0
    return W, (X.T @ X / len(X)).double()


def loss(W: Tensor, Q: Tensor, H: Tensor) -> float:
    E = (W - Q).double()
    return float(((E @ H) * E).sum())


def kind(name: str) -> object:
    return getattr(gguf.GGMLQuantizationType, name[:2].upper() + name[2:])


@pytest.mark.parametrize("name", GRIDS)
def test_bytes_are_decoded_by_the_gguf_package_to_our_values(case: tuple[Tensor, Tensor], name: str) -> None:
    matrix = gptq(*case, GRIDS[name])
    data = pack(matrix)
    columns, size = gguf.GGML_QUANT_SIZES[kind(name)]
    assert data.dtype == np.uint8 and data.shape == (ROWS, COLS // columns * size)
    np.testing.assert_array_equal(gguf.dequantize(data, kind(name)), matrix.decode().numpy())


@pytest.mark.parametrize("name", GRIDS)
def test_every_code_and_every_scale_is_packed(name: str) -> None:
    """Any codes, not only those that a search would find."""
    grid, rng = GRIDS[name], np.random.default_rng(0)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.from_numpy(rng.integers(low, high + 1, shape)).float()

    blocks, groups = COLS // grid.block, COLS // grid.group
    d = whole(1, 100, ROWS, blocks) / 64
    scale_codes = whole(grid.code_low, grid.code_high, ROWS, groups) if grid.has_codes else None
    scales = Scales(d, scale_codes, d / 2 if grid.has_minimum else None, whole(0, 63, ROWS, groups) if grid.has_minimum else None)
    matrix = BlockCodes(grid, whole(grid.lowest, grid.highest, ROWS, COLS), scales)
    np.testing.assert_array_equal(gguf.dequantize(pack(matrix), kind(name)), matrix.decode().numpy())


@pytest.mark.parametrize("name", GRIDS)
def test_error_feedback_loses_at_most_two_thirds_of_nearest_values(case: tuple[Tensor, Tensor], name: str) -> None:
    W, H = case
    plain = loss(W, nearest(W, GRIDS[name], H.diagonal()).decode(), H)
    fed_back = loss(W, gptq(W, H, GRIDS[name], passes=0).decode(), H)
    assert fed_back < plain * 2 / 3
    assert loss(W, gptq(W, H, GRIDS[name]).decode(), H) < fed_back  # descent


@pytest.mark.parametrize("name", GRIDS)
def test_a_channel_far_out_of_line_does_not_switch_error_feedback_off(case: tuple[Tensor, Tensor], name: str) -> None:
    """Channel 300 times 4096 and its column over it: the codes of a half that does not depend on its half are those of the plain model."""
    W, H = case[0].clone(), case[1].clone()
    H[:256, 256:] = H[256:, :256] = 0
    plain = gptq(W, H, GRIDS[name])
    power = torch.ones(COLS)
    power[300] = 4096
    edited = gptq(W / power, H * power * power[:, None], GRIDS[name])
    assert torch.equal(edited.codes[:, :256], plain.codes[:, :256])
    assert not torch.equal(nearest(W, GRIDS[name], H.diagonal().float()).codes[:, :256], plain.codes[:, :256])


def test_scales_are_never_zero_and_finite() -> None:
    for grid in GRIDS.values():
        for W in (torch.zeros(2, 512), torch.full((2, 512), -0.3), torch.full((2, 512), 1e-9), 1e4 * torch.ones(2, 512)):
            scales = find_scales(W, grid, torch.ones(512))
            assert torch.isfinite(scales.scale).all() and (scales.scale != 0).all()
            found = nearest(W, grid, torch.ones(512)).decode()
            assert float((found - W).abs().max()) <= 0.02 * float(W.abs().max()) + 1e-6, grid.name


def test_rows_in_parts_are_the_rows_at_once(case: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = case
    at_once = gptq(W, H, GRIDS["q4_K"])
    monkeypatch.setattr(module, "ROWS", 7)
    in_parts = gptq(W, H, GRIDS["q4_K"])
    assert (at_once.codes != in_parts.codes).float().mean() < 0.01  # products of fewer rows are added up in another order
    assert loss(W, in_parts.decode(), H) == pytest.approx(loss(W, at_once.decode(), H), rel=1e-2)

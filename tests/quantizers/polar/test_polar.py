"""Directions and magnitudes: levels, codes and feedback are their definitions, and each step lowers the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rwkvquant.codecs import PolarConfig
from rwkvquant.kernels.gemv_polar import LEVELS
from rwkvquant.models import QuantizedMatrix
from rwkvquant.quantizers import QuantizerOptions, quantizer_for
from rwkvquant.quantizers.polar.assign import codebook, nearest, typical_cosine
from rwkvquant.quantizers.polar.feedback import factorize_vectors, feedback_codes, refitted, walk
from rwkvquant.quantizers.polar.levels import largest, levels, lloyd_max, stored
from rwkvquant.quantizers.polar.plain import deviation, half_scale, plain_codes
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_error, row_losses
from tests.quantizers.examples import matrix_and_hessian
from tests.quantizers.polar.definition import feedback_by_definition, nearest_code

SMALL = PolarConfig(12, 4)


def problem(seed: int, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, rows, max(cols, 6))
    return torch.from_numpy(W)[:, :cols], torch.from_numpy(H)[:cols, :cols]


@pytest.mark.parametrize("bits", LEVELS)
def test_levels_are_those_of_lloyd_and_max(bits: int) -> None:
    """Every level is the mean of its part of many lengths of eight normal numbers; and the stored whole numbers are these levels."""
    c = lloyd_max(bits).numpy()
    r = np.linalg.norm(np.random.default_rng(0).standard_normal((400_000, 8)), axis=1)
    part = np.searchsorted((c[1:] + c[:-1]) / 2, r)
    means = np.bincount(part, r) / np.bincount(part)
    assert np.abs(means - c).max() < 0.01
    assert stored(bits) == LEVELS[bits] and largest(bits) == pytest.approx(c[-1], rel=1e-12)
    np.testing.assert_allclose(levels(bits).numpy(), c, atol=1e-3)


def test_the_nearest_direction_is_that_of_all_cosines() -> None:
    x, V = torch.randn(100, 8), codebook("e8", 12) * (1 + torch.rand(1 << 12, 1))
    codes, along = nearest(x, V)
    cosines = (x @ V.T) / V.norm(dim=1)
    assert torch.equal(cosines.gather(1, codes[:, None])[:, 0], cosines.max(1).values) or torch.allclose(
        cosines.gather(1, codes[:, None])[:, 0], cosines.max(1).values, rtol=1e-6
    )
    torch.testing.assert_close(along, (x * V[codes]).sum(1) / V[codes].square().sum(1))


@pytest.mark.parametrize("cols", [8, 24])
def test_without_feedback_every_vector_is_the_nearest(cols: int) -> None:
    W, _ = problem(2, 6, cols)
    q = plain_codes(W, SMALL, tuned=True)
    for r in range(6):
        unit = float(q.row_scale[r]) * 63 / largest(4)
        for v in range(q.codes.shape[1]):
            x = W[r, 8 * v : 8 * v + 8].numpy() / unit
            direction, level = nearest_code(x, np.eye(len(x)), SMALL, largest(4))
            assert q.codes[r, v] == direction + (level << 12)


@pytest.mark.parametrize("cols", [3, 21])
def test_components_beyond_the_matrix_do_not_count(cols: int) -> None:
    """Several directions may agree in what is left of the last vector: the cosine is the best, not the code."""
    W, H = problem(2, 6, cols)
    q = plain_codes(W, SMALL, tuned=True)
    assert q.shape == (6, cols) and q.decode().shape == (6, cols)
    left = cols % 8
    u = codebook("e8", 12).double()[:, :left]
    cosines = (W[:, -left:] @ u.T) / u.norm(dim=1).clamp(min=1e-30)
    code = torch.from_numpy(q.codes[:, -1].astype(np.int64) % (1 << 12))
    torch.testing.assert_close(cosines.gather(1, code[:, None])[:, 0], cosines.max(1).values)
    fed = feedback_codes(factorize_vectors(H, damping=0.01, act_order=True), W, H, SMALL, tuned=True, refit=False)
    assert hessian_error(W, fed.decode(), H) < 1.1 * hessian_error(W, q.decode(), H)


def test_the_style_of_the_paper_keeps_the_length_of_a_vector() -> None:
    W = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    q = plain_codes(W, SMALL, tuned=False)
    s = W.square().mean(1).sqrt()
    np.testing.assert_array_equal(q.row_scale, (s * (largest(4) / 63)).half().numpy())
    length = W.view(20, 8, 8).norm(dim=2) / (torch.from_numpy(q.row_scale).float()[:, None] * 63 / largest(4))
    want = (length[..., None] - levels(4).float()).abs().argmin(2)
    np.testing.assert_array_equal(q.codes >> 12, want.numpy())
    assert float((W - torch.from_numpy(q.decode())).square().mean()) > 1.01 * float(
        (W - torch.from_numpy(plain_codes(W, SMALL, tuned=True).decode())).square().mean()
    )


@pytest.mark.parametrize("act_order", [False, True], ids=["in_order", "act_order"])
@pytest.mark.parametrize(("rows", "cols"), [(3, 40), (2, 8), (2, 144)], ids=str)
def test_the_walk_is_the_definition(rows: int, cols: int, act_order: bool) -> None:
    W, H = problem(1, rows, cols)
    row_scale = half_scale(deviation(W), SMALL)
    want = feedback_by_definition(W.numpy(), H.numpy(), row_scale[:, 0].numpy(), SMALL, largest(4), 0.02, act_order)
    direction, level = walk(factorize_vectors(H, damping=0.02, act_order=act_order), W, row_scale, SMALL, tuned=True)
    np.testing.assert_array_equal((direction + (level << 12)).numpy(), want)


def test_feedback_loses_less_than_none_and_the_metric_less_than_the_plain_cosine() -> None:
    W, H = problem(3, 32, 120)
    factor, config = factorize_vectors(H, damping=0.01, act_order=True), PolarConfig(13, 3)
    plain, paper, tuned = (
        hessian_error(W, q.decode(), H)
        for q in (
            plain_codes(W, config, True),
            feedback_codes(factor, W, H, config, tuned=False, refit=False),
            feedback_codes(factor, W, H, config, tuned=True, refit=False),
        )
    )
    assert tuned < 0.95 * paper < 0.8 * plain


def test_fitted_scales_never_lose() -> None:
    W, H = problem(4, 12, 64)
    q = feedback_codes(factorize_vectors(H, damping=0.01, act_order=True), W, H, SMALL, tuned=True, refit=False)
    better = refitted(W, H, q)
    assert np.array_equal(better.codes, q.codes)
    before, after = row_losses(W, q.decode(), H), row_losses(W, better.decode(), H)
    assert bool((after <= before).all()) and float(after.sum()) < float(before.sum())


def test_a_row_of_zeros_stays_small() -> None:
    W, H = problem(5, 4, 32)
    W[2] = 0
    for method in ("pcdvq", "ldlq"):
        q = quantizer_for(method, SMALL)(W, Hessian(H, W.dtype), SMALL, QuantizerOptions())
        assert np.abs(q.decode()[2]).max() < 1e-5 and np.isfinite(q.decode()).all()


@pytest.mark.parametrize("cols", [5, 64, 70])
def test_torch_decodes_the_same_bits(cols: int) -> None:
    q = plain_codes(torch.randn(9, cols), SMALL, tuned=True)
    rows = torch.tensor([8, 0, 3])
    np.testing.assert_array_equal(QuantizedMatrix(q).decode(rows).numpy(), q.decode()[[8, 0, 3]])


def test_a_projection_is_a_little_shorter_than_its_vector() -> None:
    assert 0.92 < typical_cosine("random", 12) < typical_cosine("e8", 12) < typical_cosine("e8", 13) < 0.95


def test_half_of_a_code_cannot_be_taken_for_another() -> None:
    """Directions and levels stay apart for codes of more than 16 bits."""
    config = PolarConfig(13, 4)
    q = plain_codes(torch.randn(4, 16), config, tuned=True)
    assert int(q.codes.max()) >> 17 == 0
    other = replace(q, codes=q.codes ^ (1 << 13))
    np.testing.assert_array_equal(np.sign(other.decode()) * np.sign(q.decode()) >= 0, True)

"""What error feedback gets of H where a channel is far out of line."""

from __future__ import annotations

import pytest
import torch

from rwkvquant.quantizers.shared.factor import factorize, factorize_balanced


@pytest.mark.parametrize("act_order", [False, True])
def test_a_channel_far_out_of_line_is_damped_as_if_it_had_the_size_of_the_others(act_order: bool) -> None:
    """Channel c times p_c and column c over it: the same model, so H^-1 is that of the plain one over p p^T, to the bit."""
    generator = torch.Generator().manual_seed(0)
    X, W = torch.randn(200, 24, generator=generator), torch.randn(40, 24, generator=generator)
    H, power = X.T @ X / len(X), torch.ones(24)
    power[[3, 11, 20]] = torch.tensor([4096.0, 64, 1 / 128])
    plain = factorize(H.clone(), damping=0.05, act_order=act_order)
    same = factorize_balanced(H, W, damping=0.05, act_order=act_order)
    edited = factorize_balanced(H * power * power[:, None], W / power, damping=0.05, act_order=act_order)
    for each, factor in ((torch.ones(24), same), (power, edited)):
        assert torch.equal(factor.order, plain.order) and factor.damping == plain.damping
        assert torch.equal(factor.U, plain.U / each[plain.order])
        assert torch.equal(factor.diagonal, H.diagonal() * each * each)

import pytest
import torch
from torch.nn.functional import normalize

from rwkvquant.models.wkv import CHUNK, wkv6_chunked, wkv6_stepwise, wkv7_chunked, wkv7_stepwise

FASTEST = torch.exp(-torch.exp(torch.tensor(-0.5, dtype=torch.float64)))  # RWKV-7's smallest decay, 0.545
LENGTHS = [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 50]
EPS = torch.finfo(torch.float32).eps


def draw(generator, tokens, size, batch=2, heads=2):
    return torch.randn(batch, tokens, heads, size, generator=generator, dtype=torch.float64)


def case7(tokens, size, decay="random", keys="random", seed=0):
    """Arguments of wkv7_*, float64 but exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    r, k, v, kappa, a, w = (draw(generator, tokens, size) for _ in range(6))
    S = torch.randn(2, 2, size, size, generator=generator, dtype=torch.float64)
    kappa, a = normalize(kappa, dim=-1), torch.sigmoid(a)
    w = {"random": FASTEST ** torch.sigmoid(10 * w), "fastest": FASTEST.expand_as(w), "none": torch.ones_like(w)}[decay]
    if keys == "one":  # every token removes all that the previous one has stored
        kappa, a = kappa[:, :1].expand_as(kappa), torch.ones_like(a)
        k = 8 * kappa
    return [x.float().double() for x in (r, w, k, v, kappa, a, S)]


def case6(tokens, size, low=-10.0, high=5.0, seed=0):
    """Arguments of wkv6_*; decays exp(-exp(d)) with d uniform in [low, high]."""
    generator = torch.Generator().manual_seed(seed)
    r, k, v, d = (draw(generator, tokens, size) for _ in range(4))
    d = low + (high - low) * torch.rand(d.shape, generator=generator, dtype=torch.float64)
    u = torch.randn(2, size, generator=generator, dtype=torch.float64)
    S = torch.randn(2, 2, size, size, generator=generator, dtype=torch.float64)
    return [x.float().double() for x in (r, -d.exp(), k, v, u, S)]


def error(form, arguments, reference):
    """The error in float32, root mean square of all outputs, and of the state: a maximum would depend on one bad element."""
    result = form(*(x.float() for x in arguments))
    return [float((mine.double() - right).square().mean().sqrt()) for mine, right in zip(result, reference, strict=True)]


# The definitions, unrolled


def test_wkv7_stepwise_is_a_sum_over_the_past_of_products_of_transitions():
    r, w, k, v, kappa, a, S = case7(tokens=6, size=8)
    outputs, _ = wkv7_stepwise(r, w, k, v, kappa, a, S)
    for t in range(6):
        state = S[0, 1]
        for j in range(t + 1):
            state = state @ (w[0, j, 1].diag() - torch.outer(kappa[0, j, 1], a[0, j, 1] * kappa[0, j, 1])) + torch.outer(
                v[0, j, 1], k[0, j, 1]
            )
        torch.testing.assert_close(outputs[0, t, 1], state @ r[0, t, 1])


def test_wkv6_stepwise_is_a_sum_over_the_past_of_decayed_values():
    r, log_w, k, v, u, S = (x[0] for x in case6(tokens=6, size=8, high=1.0))
    outputs, _ = wkv6_stepwise(*(x[None] for x in (r, log_w, k, v)), u.expand(2, 8), S[None])
    for t in range(6):
        expected = S[0] @ (r[t, 0] * log_w[:t, 0].sum(0).exp()) + (r[t, 0] * u * k[t, 0]).sum() * v[t, 0]
        for j in range(t):
            expected = expected + (r[t, 0] * log_w[j + 1 : t, 0].sum(0).exp() * k[j, 0]).sum() * v[j, 0]
        torch.testing.assert_close(outputs[0, t, 0], expected)


@pytest.mark.parametrize("form", [wkv7_stepwise, wkv7_chunked])
def test_wkv7_replaces_what_is_stored_under_a_key_when_a_is_one(form):
    key = torch.zeros(1, 3, 1, 8, dtype=torch.float64)
    key[..., 2] = 1
    values = torch.arange(24, dtype=torch.float64).view(1, 3, 1, 8)
    ones = torch.ones_like(key)
    outputs, state = form(key, ones, key, values, key, ones, torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    assert torch.equal(outputs, values)
    assert torch.equal(state[0, 0, :, 2], values[0, 2, 0])  # [value, key]
    assert state.count_nonzero() == 8


@pytest.mark.parametrize("form", [wkv6_stepwise, wkv6_chunked])
def test_wkv6_without_decay_adds_up_what_is_stored_under_a_key(form):
    key = torch.zeros(1, 3, 1, 8, dtype=torch.float64)
    key[..., 2] = 1
    values = torch.arange(24, dtype=torch.float64).view(1, 3, 1, 8)
    u = torch.full((1, 8), 0.5, dtype=torch.float64)
    outputs, state = form(key, torch.zeros_like(key), key, values, u, torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    past = values.cumsum(1) - values
    assert torch.equal(outputs, past + 0.5 * values)
    assert torch.equal(state[0, 0, :, 2], values.sum(1)[0, 0])  # [value, key]
    assert state.count_nonzero() == 8


# The chunked forms are the definitions


@pytest.mark.parametrize("chunk", [1, 2, 8, CHUNK, 32])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_wkv7_chunked_is_stepwise(tokens, chunk):
    arguments = case7(tokens, size=8)
    torch.testing.assert_close(wkv7_chunked(*arguments, chunk=chunk), wkv7_stepwise(*arguments), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("chunk", [1, 2, 8, CHUNK, 32])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_wkv6_chunked_is_stepwise(tokens, chunk):
    arguments = case6(tokens, size=8)
    torch.testing.assert_close(wkv6_chunked(*arguments, chunk=chunk), wkv6_stepwise(*arguments), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("decay", ["random", "fastest", "none"])
@pytest.mark.parametrize("size", [8, 64])
def test_wkv7_chunked_errs_at_most_twice_as_much_as_stepwise(size, decay):
    arguments = case7(100, size, decay)
    reference = wkv7_stepwise(*arguments)
    for chunked, stepwise in zip(error(wkv7_chunked, arguments, reference), error(wkv7_stepwise, arguments, reference), strict=True):
        assert chunked <= 2 * stepwise


@pytest.mark.parametrize("decay", ["random", "fastest", "none"])
def test_wkv7_chunked_errs_at_most_by_chunk_roundings_when_every_token_removes_the_last(decay):
    """Stepwise forgets its rounding errors with what is removed; the chunked form adds up a chunk's before they cancel."""
    arguments = case7(100, 64, decay, keys="one")
    reference = wkv7_stepwise(*arguments)
    for mine, right in zip(wkv7_chunked(*(x.float() for x in arguments)), reference, strict=True):
        assert float((mine - right).abs().max()) <= CHUNK * EPS * float(right.abs().max())


@pytest.mark.parametrize(("low", "high"), [(-10, 5), (-10, -9), (-3, 1), (4, 5)])
@pytest.mark.parametrize("size", [8, 64])
def test_wkv6_chunked_errs_at_most_twice_as_much_as_stepwise(size, low, high):
    arguments = case6(100, size, low, high)
    reference = wkv6_stepwise(*arguments)
    for chunked, stepwise in zip(error(wkv6_chunked, arguments, reference), error(wkv6_stepwise, arguments, reference), strict=True):
        assert chunked <= 2 * stepwise


def test_wkv6_chunked_is_right_for_decays_that_forget_everything():
    r, log_w, k, v, u, S = case6(40, size=8)
    log_w[:, 3:20:2] = -torch.inf
    log_w[:, 25:27] = -1e30
    arguments = (r, log_w, k, v, u, S)
    torch.testing.assert_close(wkv6_chunked(*arguments), wkv6_stepwise(*arguments), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", [wkv7_chunked, wkv7_stepwise])
def test_wkv7_does_not_change_its_input(form):
    arguments = case7(20, size=8)
    before = [x.clone() for x in arguments]
    form(*arguments)
    assert all(torch.equal(x, y) for x, y in zip(arguments, before, strict=True))


@pytest.mark.parametrize("form", [wkv6_chunked, wkv6_stepwise])
def test_wkv6_does_not_change_its_input(form):
    arguments = case6(20, size=8)
    before = [x.clone() for x in arguments]
    form(*arguments)
    assert all(torch.equal(x, y) for x, y in zip(arguments, before, strict=True))

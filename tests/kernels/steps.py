"""Properties of the step of both architectures; test_rwkv7.py and test_rwkv6.py call them."""

from __future__ import annotations

import numpy as np

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.kernels.functions import layer_norm
from tests.helpers import random_state_dict
from tests.kernels.step_weights import state_sizes, step_weights

FIELDS = ("att_shift", "ffn_shift", "wkv")


def random_model(arch, batch=3, **shape):
    """Weights, embedding rows (batch, C), and a state without zeros."""
    weights = step_weights(random_state_dict(arch, width=48, head_size=16, hidden=100, vocab=60, **shape))
    zeros = ARCHITECTURES[arch].zero_state(state_sizes(weights), batch)
    rng = np.random.default_rng(0)
    state = zeros.map(lambda array: rng.standard_normal(array.shape).astype(np.float32))
    return weights, weights["emb.weight"][rng.integers(0, 60, batch)], state


def leaves_its_state_as_it_was(step, arch):
    weights, x, state = random_model(arch)
    before, x_before = state.copy(), x.copy()
    _, after = step(weights, x, state)
    for field in FIELDS:
        assert np.array_equal(getattr(state, field), getattr(before, field))
        assert not np.shares_memory(getattr(state, field), getattr(after, field))
        assert not np.array_equal(getattr(state, field), getattr(after, field))
    assert np.array_equal(x, x_before)


def batch_is_its_sequences(step, arch):
    weights, x, state = random_model(arch)
    logits, after = step(weights, x, state)
    assert logits.shape == (3, 60)
    for i in range(3):
        alone, alone_after = step(weights, x[i : i + 1], state.select([i]))
        np.testing.assert_allclose(alone, logits[i : i + 1], rtol=1e-5, atol=1e-5)
        for field in FIELDS:
            np.testing.assert_allclose(getattr(alone_after, field), getattr(after.select([i]), field), rtol=1e-5, atol=1e-5)


def float32_is_float64_but_for_rounding(step, arch):
    """No constant or function inside widens float32, or narrows float64."""
    weights, x, state = random_model(arch)
    logits, after = step(weights, x, state)
    wide = {name: values.astype(np.float64) for name, values in weights.items()}
    reference, reference_after = step(wide, x.astype(np.float64), state.map(lambda array: array.astype(np.float64)))
    assert (logits.dtype, reference.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(logits - reference).max() < 1e-5 * np.abs(reference).max()
    for field in FIELDS:
        assert (getattr(after, field).dtype, getattr(reference_after, field).dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(getattr(after, field), getattr(reference_after, field), rtol=1e-5, atol=1e-5)


def blocks_that_write_nothing_leave_the_embedding(step, arch):
    weights, x, state = random_model(arch)
    for name in weights:
        if name.endswith(("att.output.weight", "ffn.value.weight")):
            weights[name] = np.zeros_like(weights[name])
    logits, after = step(weights, x, state)
    y = layer_norm(x, weights["blocks.0.ln0.weight"], weights["blocks.0.ln0.bias"])
    np.testing.assert_allclose(
        logits, layer_norm(y, weights["ln_out.weight"], weights["ln_out.bias"]) @ weights["head.weight"].T, rtol=1e-5
    )
    for layer in (0, 1):
        ln1, ln2 = (layer_norm(y, *(weights[f"blocks.{layer}.{n}.{part}"] for part in ("weight", "bias"))) for n in ("ln1", "ln2"))
        np.testing.assert_allclose(after.att_shift[layer], ln1, rtol=1e-6)
        np.testing.assert_allclose(after.ffn_shift[layer], ln2, rtol=1e-6)

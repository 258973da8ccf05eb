"""Properties of the step; tests/models/test_parity.py compares it with the `rwkv` package."""

import numpy as np
import pytest

from rwkvquant.kernels.functions import tensors_of
from rwkvquant.kernels.rwkv6 import step, time_mix
from tests.kernels import steps
from tests.kernels.steps import random_model


@pytest.mark.parametrize(
    "promise",
    [
        steps.leaves_its_state_as_it_was,
        steps.batch_is_its_sequences,
        steps.float32_is_float64_but_for_rounding,
        steps.blocks_that_write_nothing_leave_the_embedding,
    ],
    ids=lambda promise: promise.__name__,
)
def test_the_step(promise):
    promise(step, "rwkv6")


@pytest.mark.parametrize(("decay", "kept"), [(-100, 1), (0, np.exp(-1)), (5, 0), (1000, 0)])
def test_a_token_adds_its_value_under_its_key_to_what_decay_leaves(decay, kept):
    weights, x, state = random_model("rwkv6")
    weights["blocks.0.att.time_decay_w2"] = np.zeros_like(weights["blocks.0.att.time_decay_w2"])
    weights["blocks.0.att.time_decay"] = np.full(48, decay, np.float32)
    k, v = ((x @ weights[f"blocks.0.att.{name}.weight"].T).reshape(3, 3, 16) for name in ("key", "value"))
    before = state.wkv[0]
    with np.errstate(over="raise", invalid="raise"):
        _, S = time_mix(tensors_of(weights, 0), x, x, before)  # no shift: every input is x
    np.testing.assert_allclose(S, kept * before + np.einsum("bhi,bhj->bhij", v, k), rtol=1e-5, atol=1e-5)  # [value, key]

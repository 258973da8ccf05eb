"""Properties of the step; tests/models/test_parity.py compares it with the `rwkv` package."""

import numpy as np
import pytest

from rwkvquant.kernels.functions import tensors_of
from rwkvquant.kernels.rwkv7 import step, time_mix
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
    promise(step, "rwkv7")


def lora_off(weights, name, value):
    """The LoRA pair gives nothing, so its sigmoid is sigmoid(value) for any input."""
    weights[f"blocks.0.att.{name}2"] = np.zeros_like(weights[f"blocks.0.att.{name}2"])
    weights[f"blocks.0.att.{name}0"] = np.full_like(weights[f"blocks.0.att.{name}0"], value)


def mix(weights):
    """The state before, key and value by head, and the state after one token of the first layer."""
    _, x, state = random_model("rwkv7")
    k, v = (x @ weights[f"blocks.0.att.{name}.weight"].T for name in ("key", "value"))
    _, S, v_first = time_mix(tensors_of(weights, 0), x, x, state.wkv[0], None)  # no shift: every input is x
    assert np.array_equal(v, v_first)
    return state.wkv[0], k.reshape(3, 3, 16), v.reshape(3, 3, 16), S


def test_without_decay_and_removal_a_token_adds_its_value_under_its_key():
    weights, _, _ = random_model("rwkv7")
    lora_off(weights, "w", -1000)  # w = 1
    lora_off(weights, "a", -1000)  # a = 0
    weights["blocks.0.att.k_a"][:] = 0
    before, k, v, S = mix(weights)
    np.testing.assert_allclose(S, before + np.einsum("bhi,bhj->bhij", v, k), rtol=1e-5, atol=1e-5)  # [value, key]


def test_the_fastest_decay_is_exp_of_minus_exp_of_minus_one_half():
    weights, _, _ = random_model("rwkv7")
    lora_off(weights, "w", 1000)
    lora_off(weights, "a", -1000)
    weights["blocks.0.att.k_a"][:] = 0
    before, k, v, S = mix(weights)
    np.testing.assert_allclose(S, 0.5452392 * before + np.einsum("bhi,bhj->bhij", v, k), rtol=1e-5, atol=1e-5)


def test_with_a_of_one_the_old_value_under_the_removal_key_is_gone():
    weights, _, _ = random_model("rwkv7")
    lora_off(weights, "w", -1000)
    lora_off(weights, "a", 1000)
    weights["blocks.0.att.k_k"][:] = 1  # removal key = key, except for its length
    _, k, v, S = mix(weights)
    np.testing.assert_allclose(np.einsum("bhij,bhj->bhi", S, k), v * (k * k).sum(-1, keepdims=True), rtol=1e-4, atol=1e-4)

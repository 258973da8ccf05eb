"""Prompts are read in steps; how they are divided changes no bit, and a step has as many tokens as its memory allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.architectures import Dims, Role, TensorSpec
from rwkvquant.bench.random_model import default_side, write_model
from rwkvquant.codecs import GridConfig, Packing
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.weights import packed_weights
from tests.runtime.test_engine import SMALL, assert_equal, random_state, random_weights


@pytest.mark.parametrize("activations", ["int8", "float32"])
@pytest.mark.parametrize("name", ["rwkv7 heads of 48", "rwkv6 heads of 32"])
def test_prompts_longer_than_a_step_give_the_bits_of_single_tokens(tmp_path: Path, name: str, activations: str) -> None:
    """Around the largest step, alone and side by side with others, with any number of threads."""
    weights = random_weights(tmp_path, name)
    one = NativeEngine(weights, 1, activations)
    most = one.step_tokens
    assert 64 < most <= _native.MAX_TOKENS
    text, state = np.random.default_rng(0).integers(0, 77, 2 * most + 3).tolist(), random_state(weights.dims, 1)
    rows, after, part = [], {}, state
    for count, token in enumerate(text, start=1):
        (row,), part = one.read([[token]], part, "last")
        rows.append(row[0])
        after[count] = part
    lengths = (most - 1, most, most + 1, 2 * most + 3)
    for threads in (1, 3):
        engine = NativeEngine(weights, threads, activations)
        for length in lengths:
            (got,), got_after = engine.read([text[:length]], state, "all" if threads == 1 else "last")
            np.testing.assert_array_equal(got, np.stack(rows[:length])[-len(got) :])
            assert_equal(got_after, after[length])
        together = [1, most + 1, 5, 300]
        got_rows, got_after = engine.read([text[:length] for length in together], state.select([0] * len(together)), "last")
        for i, length in enumerate(together):
            np.testing.assert_array_equal(got_rows[i][0], rows[length - 1])
            assert_equal(got_after.select([i]), after[length])


def test_a_prompt_is_read_in_as_few_steps_as_possible_of_about_equal_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(tmp_path, SMALL[0])
    engine = NativeEngine(weights, 1)
    engine.step_tokens = 512
    sizes: list[list[int]] = []
    monkeypatch.setattr(engine, "_step", lambda tokens, parts, *_: sizes.append([count for count, _ in parts]))
    for lengths, want in (
        ([512], [[512]]),
        ([513], [[264], [249]]),
        ([1], [[1]]),
        ([1200], [[400], [400], [400]]),
        ([300, 1, 2], [[300, 1, 2]]),
        ([1200, 1, 100], [[400, 1, 100], [400], [400]]),
        ([300, 300, 40], [[152, 152, 40], [148, 148]]),
        ([1] * 130, [[1] * 130]),
    ):
        sizes.clear()
        engine.read([[0] * length for length in lengths], random_state(weights.dims, len(lengths)), "last")
        assert sizes == want


def test_a_step_has_the_more_tokens_the_more_the_weights_take(tmp_path: Path) -> None:
    """Its memory is to be little beside them: 3 MiB and a twentieth."""
    small = NativeEngine(random_weights(tmp_path, SMALL[0]), 1).step_tokens
    dims = Dims(1, 1024, 1024, 64, 16, 64, dict.fromkeys(("Rw", "Ra", "Rv", "Rg"), 8))

    def two_bits(_: str, spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
        return GridConfig(2).packing((shape[0], shape[1])) if spec.role is Role.PROJECTION else default_side(spec, shape)

    write_model(tmp_path / "wide.safetensors", "rwkv7", dims, two_bits)
    wide = NativeEngine(packed_weights(open_packed(tmp_path / "wide.safetensors")), 1).step_tokens
    assert 64 <= wide < small <= _native.MAX_TOKENS and wide % 8 == 0

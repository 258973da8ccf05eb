"""Text from a transformer whose cache is packed: only the past is rounded, slots are apart, and states survive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.kernels.kv_cache import KVCacheConfig
from rwkvquant.runtime.session import Model, load
from rwkvquant.runtime.states.files import State
from tests.helpers import random_state_dict, write_pth
from tests.llama import CONFIG, write_llama
from tests.runtime.packing import pack_checkpoint

TOKENS = [int(token) for token in np.random.default_rng(5).integers(1, CONFIG["vocab_size"], 40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


def opened(folder: Path, kv_cache: int | KVCacheConfig | None = None) -> Model:
    return load(folder, tokenizer="bytes", activations="float32", kv_cache=kv_cache)


def test_a_prompt_is_read_exactly_and_only_its_past_is_rounded(folder: Path) -> None:
    exact, _ = opened(folder).forward(TOKENS, logits="all")
    model = opened(folder, 2)
    first, state = model.forward(TOKENS[:20], logits="all")
    assert np.abs(first - exact[:20]).max() < 1e-5  # sums in another order: BLAS gets other shapes
    later, _ = model.forward(TOKENS[20:], state, logits="all")
    assert np.abs(later - exact[20:]).max() > 0.1


def test_more_bits_are_closer(folder: Path) -> None:
    def error(bits: int) -> float:
        model, state, rows = opened(folder, bits), None, []
        for token in TOKENS:
            row, state = model.forward([token], state)
            rows.append(row)
        return float(np.square(np.stack(rows) - exact).mean())

    exact, _ = opened(folder).forward(TOKENS, logits="all")
    errors = [error(bits) for bits in (2, 3, 4, 8, 16, 32)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-8 and errors[0] > 0.01


@pytest.mark.parametrize("kv_cache", [None, 4, KVCacheConfig(bits=2, scheme="kivi", group=8, window=8)])
def test_slots_of_different_lengths_do_not_touch_each_other(folder: Path, kv_cache: int | KVCacheConfig | None) -> None:
    model = opened(folder, kv_cache)
    slots = model.slots(2)
    one, other = slots.add(), slots.add()
    empty = slots.nbytes
    slots.forward({one: TOKENS[:9], other: TOKENS[9:11]})
    assert slots.state_bits == 32 and slots.nbytes > empty
    both = slots.forward({one: TOKENS[11:13], other: TOKENS[13:14]})
    for slot, parts in ((one, (TOKENS[:9], TOKENS[11:13])), (other, (TOKENS[9:11], TOKENS[13:14]))):
        _, state = model.forward(parts[0])
        alone, after = model.forward(parts[1], state)
        assert np.array_equal(both[slot], alone)
        assert np.array_equal(slots.state(slot).recurrent.keys, after.recurrent.keys)


def test_a_state_stays_as_it_was_and_can_be_saved(folder: Path, tmp_path: Path) -> None:
    model = opened(folder, 4)
    _, state = model.forward(TOKENS[:12])
    first, _ = model.forward(TOKENS[12:], state)
    again, _ = model.forward(TOKENS[12:], state)
    assert np.array_equal(first, again) and state.recurrent.keys.shape == (2, 1, 12, 32)
    state.save(tmp_path / "said.safetensors")
    loaded = State.load(tmp_path / "said.safetensors")
    packed_again, _ = model.forward(TOKENS[12:], loaded)
    exact, _ = opened(folder).forward(TOKENS[12:], loaded)
    assert np.abs(exact - first).max() < 1e-4
    assert np.abs(packed_again - first).max() < 0.2 * np.abs(first).max()


def test_a_packed_model_generates_the_same_text_as_its_checkpoint_and_with_a_packed_cache(folder: Path, tmp_path: Path) -> None:
    path = pack_checkpoint(folder, tmp_path / "packed.safetensors", TokenizerData("bytes", {"size": 256}))
    settings = {"max_tokens": 12, "temperature": 0.0}
    model = load(path, activations="float32")
    text = model.generate("Once", **settings)  # type: ignore[arg-type]
    assert text.tokens == opened(folder).generate("Once", **settings).tokens  # type: ignore[arg-type]
    assert load(path, kv_cache=16, activations="float32").generate("Once", **settings).tokens == text.tokens  # type: ignore[arg-type]


def test_generate_takes_the_bits_and_refuses_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(folder), "-p", "Once", "-n", "3", "--tokenizer", "bytes", "--seed", "1"]
    assert run([*command, "--kv-bits", "4"]) == 0
    assert run([*command, "--kv-bits", "5"]) == 2
    assert "bits of a cache must be one of 2, 3, 4, 8, 16, 32; got 5" in capsys.readouterr().err


def test_a_model_without_a_cache_says_so(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "rwkv.pth", random_state_dict("rwkv7"))
    with pytest.raises(ConfigError, match=r"only transformers have a cache of keys and values; RWKV-7 \(x070\) has a state of fixed size"):
        load(path, tokenizer="bytes", kv_cache=4)

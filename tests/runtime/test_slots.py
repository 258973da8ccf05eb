"""Slots are `Model.forward` in place: the same logits with any neighbours, and no state that was given or taken is changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.architectures import ARCHITECTURES, Dims
from rwkvquant.errors import ConfigError, FormatError, TokenizerError
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels.state_rows import in_full, in_rows
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.session import Model, load
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.states.pool import room
from rwkvquant.runtime.weights import packed_weights

ARRAYS = ("att_shift", "ffn_shift", "wkv")
DATA = Path(__file__).parents[1] / "data"
PACKED = DATA / "rwkv7-tiny-rtn4.safetensors"
SEQUENCES = [[5, 6, 7], [900], [1, 2, 3, 4, 5, 6, 7, 8, 9], [4095, 0]]


@pytest.fixture(params=["native", "reference"])
def model(request: pytest.FixtureRequest) -> Model:
    model = load(PACKED, threads=2)
    if request.param == "reference":
        model._engine = ReferenceEngine(packed_weights(open_packed(PACKED)))
    return model


def same(one: State, other: State) -> bool:
    return all(np.array_equal(getattr(one.recurrent, name), getattr(other.recurrent, name)) for name in ARRAYS)


def equal(model: Model, one: np.ndarray, other: np.ndarray) -> bool:
    """To the bit natively. NumPy's products of several rows may add in another order than those of one."""
    return np.array_equal(one, other) if model.backend != "reference" else np.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_slots_give_the_bits_of_forward_in_any_company(model: Model) -> None:
    slots = model.slots(6)
    own = [slots.add() for _ in SEQUENCES]
    states: list[State | None] = [None] * len(SEQUENCES)
    random = np.random.default_rng(0)
    for _ in range(8):
        some = random.permutation(len(SEQUENCES))[: random.integers(1, len(SEQUENCES) + 1)].tolist()
        found = slots.forward({own[i]: SEQUENCES[i] for i in some})
        assert list(found) == [own[i] for i in some]
        for i in some:
            wanted, states[i] = model.forward(SEQUENCES[i], states[i])
            assert equal(model, found[own[i]], wanted)
    for i, state in enumerate(states):
        expected = (state or model.initial_state()).recurrent
        for name in ARRAYS:
            assert equal(model, getattr(slots.state(own[i]).recurrent, name), getattr(expected, name))


def test_all_logits_have_a_row_for_each_token(model: Model) -> None:
    slots = model.slots(2)
    first, second = slots.add(), slots.add()
    found = slots.forward({second: [1, 2, 3], first: [4]}, logits="all")
    assert equal(model, found[second], model.forward([1, 2, 3], logits="all")[0]) and found[first].shape == (1, model.dims.vocab)


def test_a_state_that_was_given_or_taken_is_never_changed(model: Model) -> None:
    _, given = model.forward([1, 2, 3])
    kept = given.copy()
    slots = model.slots(2)
    one, other = slots.add(given), slots.add(given)
    slots.forward({one: [4, 5]})
    assert same(given, kept) and same(slots.state(other), kept)
    taken = slots.state(one)
    copy = taken.copy()
    slots.forward({one: [6]})
    assert same(taken, copy) and not same(slots.state(one), copy)


def test_a_slot_that_was_freed_starts_from_the_beginning(model: Model) -> None:
    slots = model.slots(2)
    first, second = slots.add(), slots.add()
    slots.forward({first: [1, 2], second: [3]})
    kept = slots.state(second)
    slots.free(first)
    assert len(slots) == 1 and slots.count == 2 and slots.add() == first
    assert same(slots.state(first), model.initial_state()) and same(slots.state(second), kept)


def test_a_mistake_is_refused_before_any_slot_changes(model: Model) -> None:
    slots = model.slots(2)
    slot = slots.add()
    slots.forward({slot: [1]})
    kept = slots.state(slot)
    mistakes = [
        (ConfigError, r"slot 1 is not in use", lambda: slots.forward({slot: [2], 1: [3]})),
        (ConfigError, r"slot 7 is not in use", lambda: slots.state(7)),
        (ConfigError, r"slot 1 is not in use", lambda: slots.free(1)),
        (ConfigError, r"empty one", lambda: slots.forward({})),
        (ConfigError, r"empty one", lambda: slots.forward({slot: []})),
        (ConfigError, r'"last" or "all"', lambda: slots.forward({slot: [1]}, logits="first")),  # type: ignore[arg-type]
        (TokenizerError, r"0 to 4095; got 4096", lambda: slots.forward({slot: [1, 4096]})),
        (TokenizerError, r"integers", lambda: slots.forward({slot: [1.5]})),  # type: ignore[list-item]
        (FormatError, r"a state fits only its own model", lambda: slots.add(State("rwkv6", kept.recurrent))),
        (ConfigError, r"1 to 65536 slots", lambda: model.slots(0)),
    ]
    for error, message, call in mistakes:
        with pytest.raises(error, match=message):
            call()
    assert same(slots.state(slot), kept) and len(slots) == 1
    slots.add()
    with pytest.raises(ConfigError, match=r"all 2 slots are in use; free one, or make more"):
        slots.add()


def test_a_file_that_is_cut_while_it_runs_is_one_sentence(tmp_path: Path) -> None:
    """As `cp` of a new version over it does. Without the question the process would end with SIGBUS."""
    shutil.copy(PACKED, tmp_path / "live.safetensors")
    model = load(tmp_path / "live.safetensors", threads=1, pages="map")
    slots = model.slots()
    slot = slots.add()
    slots.forward({slot: [1]})
    with open(tmp_path / "live.safetensors", "r+b") as file:
        file.truncate(10_000)
    for call in (lambda: slots.forward({slot: [2]}), lambda: model.forward([1]), lambda: model.generate("hi", max_tokens=1)):
        with pytest.raises(FormatError, match="became shorter since it was opened"):
            call()


@pytest.fixture(params=[("rwkv7", "native"), ("rwkv7", "reference"), ("rwkv6", "native"), ("rwkv6", "reference")], ids="-".join)
def either(request: pytest.FixtureRequest) -> Model:
    """Both architectures on both engines."""
    arch, engine = request.param
    path = {"rwkv7": PACKED, "rwkv6": DATA / "rwkv6-8m-gptq.safetensors"}[arch]
    model = load(path, threads=2)
    if engine == "reference":
        model._engine = ReferenceEngine(packed_weights(open_packed(path)))
    return model


def rounded(state: State, bits: int, before: State) -> State:
    return State(state.arch, in_full(in_rows(state.recurrent, bits, in_rows(before.recurrent, bits))))


SMALL = pytest.mark.parametrize("bits", [12, 8])


@SMALL
def test_states_in_few_bits_are_rounded_after_each_token(either: Model, bits: int) -> None:
    """By the definition: `forward` of one token, then rounding, again and again. Natively in any company."""
    slots = either.slots(2, state_bits=bits)
    slot, other = slots.add(), slots.add()
    company = {} if either.backend == "reference" else {other: [31]}
    state = either.initial_state()
    for token in (5, 6, 7, 900):
        wanted, after = either.forward([token], state)
        state = rounded(after, bits, state)
        found = slots.forward({slot: [token]} | company)
        assert np.array_equal(found[slot], wanted) and same(slots.state(slot), state)


@SMALL
def test_the_reference_rounds_after_each_token_of_a_longer_text_too(bits: int) -> None:
    model = load(PACKED, threads=1)
    model._engine = ReferenceEngine(packed_weights(open_packed(PACKED)))
    slots = model.slots(2, state_bits=bits)
    whole, cut = slots.add(), slots.add()
    found = slots.forward({whole: [5, 6, 7]})[whole]
    rest = [slots.forward({cut: [token]})[cut] for token in (5, 6, 7)]
    assert np.array_equal(found, rest[-1]) and same(slots.state(whole), slots.state(cut))


@SMALL
@pytest.mark.parametrize("path", [PACKED, DATA / "rwkv6-8m-gptq.safetensors"], ids=["rwkv7", "rwkv6"])
def test_states_in_few_bits_do_not_depend_on_company_threads_or_how_a_text_is_cut(path: Path, bits: int) -> None:
    tokens = [5, 6, 7, 900, 12, 13, 14, 15, 16]
    together, alone = load(path, threads=2).slots(3, state_bits=bits), load(path, threads=1).slots(1, state_bits=bits)
    whole, cut, single = together.add(), together.add(), alone.add()
    found = together.forward({whole: tokens, cut: tokens[:4]}, "all")
    rest = together.forward({cut: tokens[4:]}, "all")
    one_by_one = [alone.forward({single: [token]})[single] for token in tokens]
    assert np.array_equal(found[whole], np.concatenate([found[cut], rest[cut]])) and np.array_equal(found[whole], one_by_one)
    assert same(together.state(whole), together.state(cut)) and same(together.state(whole), alone.state(single))


@SMALL
@pytest.mark.parametrize("path", [PACKED, DATA / "rwkv6-8m-gptq.safetensors"], ids=["rwkv7", "rwkv6"])
def test_a_state_in_few_bits_that_was_saved_goes_on_as_if_it_was_not(tmp_path: Path, path: Path, bits: int) -> None:
    slots = load(path, threads=1).slots(2, state_bits=bits)
    slot = slots.add()
    slots.forward({slot: list(range(1, 80))})
    slots.state(slot).save(tmp_path / "state")
    loaded = slots.add(State.load(tmp_path / "state"))
    rows = [array for array in slots._recurrent.arrays if array.dtype == np.uint8]
    assert len(rows) == 1 and np.array_equal(rows[0][:, slot], rows[0][:, loaded])
    found = slots.forward({slot: [3, 4, 5], loaded: [3, 4, 5]})
    assert np.array_equal(found[slot], found[loaded]) and same(slots.state(slot), slots.state(loaded))


@pytest.mark.parametrize(("bits", "share", "away"), [(12, 0.40, 0.1), (8, 0.28, 0.4)])
def test_states_in_few_bits_are_near_exact_ones_and_take_as_much_memory_as_is_said(bits: int, share: float, away: float) -> None:
    model = load(DATA / "rwkv6-8m-gptq.safetensors", threads=1)
    exact, small = model.slots(2), model.slots(2, state_bits=bits)
    dims = model.dims
    rows = 2 * dims.layers * dims.heads * dims.head_size * {12: 100, 8: 68}[bits]  # bytes of 64 values
    assert dims.head_size == 64 and small.nbytes == rows + 2 * 2 * dims.layers * dims.width * 4
    assert (exact.state_bits, small.state_bits) == (32, bits) and abs(small.nbytes / exact.nbytes - share) < 0.02
    tokens = list(range(1, 100))
    one, other = exact.forward({exact.add(): tokens})[0], small.forward({small.add(): tokens})[0]
    assert not np.array_equal(one, other) and np.abs(one - other).max() < away * one.std()


@SMALL
def test_states_in_few_bits_can_rest_and_go_on(bits: int) -> None:
    model = load(PACKED, threads=1)
    slots = model.slots(1, state_bits=bits)
    slot = slots.add()
    slots.forward({slot: [5, 6, 7]})
    kept = slots.state(slot)
    packed = slots.park(slot)
    assert same(packed.state(), kept.packed().state())
    again = slots.add(kept)
    assert same(slots.state(again), kept)  # what is packed in rows already is packed to the same
    slots.free(again)
    assert same(slots.state(slots.add()), model.initial_state())


def test_other_bits_of_states_in_slots_are_refused() -> None:
    model = load(PACKED, threads=1)
    for bits in (4, 16, 0, "12"):
        with pytest.raises(ConfigError, match=r"states in slots have 32, 12 or 8 bits a value; got"):
            model.slots(2, state_bits=bits)  # type: ignore[arg-type]
    for bits in (12, 8):
        for arch, size in (("rwkv7", 3), ("llama", 4)):
            dims = Dims(layers=1, width=4 * size, hidden=8, vocab=9, heads=4, head_size=size)
            with pytest.raises(
                ConfigError, match=rf"in {bits} bits .* matrices as states, and heads of an even size; this one is .* with heads of {size}"
            ):
                room(ARCHITECTURES[arch], dims, 1, bits)

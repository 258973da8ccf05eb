"""A pool keeps states in few bits, counts its memory, and drops what was not used for the longest time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.architectures import ARCHITECTURES, Dims
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.runtime.session import load
from rwkvquant.runtime.states.files import PackedState, State
from rwkvquant.runtime.states.resting import StatePool

PACKED = Path(__file__).parents[1] / "data" / "rwkv7-tiny-rtn4.safetensors"
DIMS = Dims(layers=2, width=128, hidden=256, vocab=30, heads=2, head_size=64)


def state(seed: int = 0) -> State:
    random = np.random.default_rng(seed)
    return State(
        "rwkv7", ARCHITECTURES["rwkv7"].zero_state(DIMS).map(lambda values: random.standard_normal(values.shape).astype(np.float32))
    )


def same(one: PackedState, other: PackedState) -> bool:
    return {name: part.tobytes() for name, part in one.arrays.items()} == {name: part.tobytes() for name, part in other.arrays.items()}


@pytest.mark.parametrize(("bits", "share"), [(8, 3.7), (4, 6.9)])
def test_a_thousand_sessions_take_the_memory_that_is_counted(bits: int, share: float) -> None:
    given = [state(seed) for seed in range(8)]
    full = sum(values.nbytes for values in given[0].recurrent.arrays)
    pool = StatePool(bits)
    pool.put(0, given[0])  # imports and caches
    tracemalloc.start()
    for session in range(1, 1001):
        pool.put(session, given[session % 8])
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(pool) == 1001 and pool.nbytes == 1001 * given[0].packed(bits).nbytes
    assert full * 1001 / pool.nbytes > share
    assert pool.nbytes * 1000 / 1001 <= taken <= pool.nbytes + 1000 * 3000  # Python's objects, for each session


def test_a_session_that_rests_goes_on_as_its_packed_state_would() -> None:
    model = load(PACKED, threads=1)
    slots, pool = model.slots(2), StatePool()
    first, second = slots.add(), slots.add()
    slots.forward({first: [5, 6, 7], second: [8]})
    packed = slots.state(first).packed(8)
    pool.put("alice", slots.park(first))
    assert len(slots) == 1 and slots.add() == first  # for someone else
    slots.free(second)
    kept = pool.take("alice")
    assert kept is not None and same(kept, packed) and "alice" not in pool and pool.nbytes == 0
    again = slots.add(kept)
    assert np.array_equal(slots.forward({again: [9]})[again], model.forward([9], packed.state())[0])


@pytest.mark.parametrize("bits", [8, 4])
def test_the_bytes_at_rest_do_not_depend_on_threads(bits: int) -> None:
    found = [load(PACKED, threads=threads).forward([5, 6, 7, 900, 12])[1].packed(bits) for threads in (1, 2)]
    assert same(*found)


def test_a_slot_that_cannot_be_parked_stays_in_use() -> None:
    slots = load(PACKED, threads=1).slots(1)
    slot = slots.add()
    with pytest.raises(ConfigError, match="8 or 4 bits"):
        slots.park(slot, bits=3)
    with pytest.raises(ConfigError, match="slot 3 is not in use"):
        slots.park(3)
    assert len(slots) == 1
    assert slots.park(slot, bits=4).bits == 4 and len(slots) == 0


def test_another_models_packed_state_is_refused() -> None:
    slots = load(PACKED, threads=1).slots(1)
    with pytest.raises(FormatError, match="a state fits only its own model"):
        slots.add(state().packed())
    assert len(slots) == 0


def test_a_full_pool_drops_what_was_not_used_for_the_longest_time() -> None:
    size = state().packed(8).nbytes
    pool = StatePool(max_bytes=3 * size)
    for key in "abc":
        assert pool.put(key, state()) == []
    assert pool.get("a") is not None  # so b is now the oldest
    assert pool.put("d", state()) == ["b"] and [*pool] == ["c", "a", "d"] and pool.nbytes == 3 * size
    assert pool.put("c", state(1)) == [] and [*pool] == ["a", "d", "c"]  # in place of itself: nothing is dropped
    assert pool.get("b") is None and pool.take("b") is None
    pool.discard("a")
    pool.discard("a")
    assert len(pool) == 2 and "a" not in pool and pool.nbytes == 2 * size


def test_a_state_that_is_packed_already_is_kept_as_it_is() -> None:
    pool, packed = StatePool(bits=8), state().packed(4)
    pool.put("a", packed)
    assert pool.get("a") is packed and pool.nbytes == packed.nbytes


def test_mistakes_are_refused_and_change_nothing() -> None:
    for mistake in ({"bits": 5}, {"max_bytes": 0}):
        with pytest.raises(ConfigError):
            StatePool(**mistake)
    pool = StatePool(max_bytes=state().packed(4).nbytes)
    pool.put("a", state().packed(4))
    with pytest.raises(ConfigError, match=r"a pool of \d+ bytes has no room for a state of \d+"):
        pool.put("a", state())
    bad = state()
    bad.recurrent.wkv[:] = np.nan
    with pytest.raises(FormatError, match="NaN"):
        pool.put("a", bad)
    assert [*pool] == ["a"] and pool.nbytes == state().packed(4).nbytes

"""The cache of prefixes against a list of everything that was put into it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant.kernels.state import RecurrentState, StateArray
from rwkvquant.runtime.states.files import State
from rwkvquant.serve.prefixes import OVERHEAD, Prefixes

SPEC = (StateArray("wkv", ("B", "C")),)
TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)


def state(number: float) -> State:
    return State("rwkv7", RecurrentState(SPEC, (np.full((1, 100), number, np.float32),)))


def number_of(kept: State) -> float:
    return float(kept.recurrent.arrays[0][0, 0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.booleans())), st.lists(TEXTS))
def test_the_longest_prefix_is_found(puts: list[tuple[tuple[int, ...], bool]], asked: list[tuple[int, ...]]) -> None:
    cache, known, ends = Prefixes(1 << 30), {}, set()
    for number, (tokens, with_logits) in enumerate(puts):
        cache.put("", tokens, state(number), np.zeros(3, np.float32) if with_logits else None)
        known[tokens] = number
        if with_logits:
            ends.add(tokens)
    for tokens in asked:
        fits = [each for each in known if tokens[: len(each)] == each and (each != tokens or each in ends)]
        found = cache.find("", tokens)
        if fits:
            assert found.entry is not None and number_of(found.entry.state) == known[max(fits, key=len)]
            assert found.entry.length == len(max(fits, key=len))
        else:
            assert found.entry is None
        lengths = [
            next((i for i, (a, b) in enumerate(zip(each, tokens, strict=False)) if a != b), min(len(each), len(tokens))) for each in known
        ]
        assert found.shared == max(lengths, default=0)
    assert sorted(tokens for _, tokens, _ in cache) == sorted(known) and len(cache) == len(known)
    assert cache.nbytes == sum(entry.nbytes for _, _, entry in cache)
    assert cache.find("other", (0,)).entry is None


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=30), st.integers(1, 6))
def test_memory_stays_within_its_limit_and_the_newest_stay(puts: list[tuple[int, ...]], room: int) -> None:
    cache = Prefixes(room * (400 + OVERHEAD + 8 * 7))
    for number, tokens in enumerate(puts):
        cache.put("", tokens, state(number))
        assert cache.nbytes <= cache.max_bytes
        found = cache.find("", (*tokens, 3))
        assert found.entry is not None and number_of(found.entry.state) == number
    cache.clear()
    assert len(cache) == 0 and cache.nbytes == 0 and not any(root.children for root in cache._roots.values())


def test_what_was_used_last_stays() -> None:
    cache = Prefixes(3 * (400 + OVERHEAD + 8))
    for token in range(3):
        cache.put("", (token,), state(token))
    cache.find("", (0, 9))
    cache.put("", (3,), state(3))
    assert [tokens for _, tokens, _ in cache] == [(2,), (0,), (3,)]


def test_a_cache_without_room_keeps_nothing() -> None:
    for cache in (Prefixes(0), Prefixes(100)):
        cache.put("", (1, 2), state(1))
        assert len(cache) == 0 and cache.find("", (1, 2, 3)).entry is None

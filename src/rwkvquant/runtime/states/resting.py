"""States of sessions that wait, in a quarter or a seventh of their bytes.

    pool = StatePool(bits=8, max_bytes=2 << 30)
    pool.put("alice", slots.park(slot))             # the slot is free for another session
    slot = slots.add(pool.take("alice"))            # and alice goes on: None, from the beginning, if she was dropped

With `max_bytes` it is a cache: `put` drops what was not used for the longest time. Several threads that use one pool need a lock.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.states.files import PackedState, State, checked_bits


class StatePool:
    """Packed states by keys of the caller: names of sessions, or tokens that were read."""

    def __init__(self, bits: int = 8, max_bytes: int | None = None) -> None:
        """`bits`, 8 or 4, is what a `State` is packed to; one that is packed already is kept as it is. `max_bytes` None: no limit.

        Raises ConfigError for other bits, and for a limit below 1.
        """
        self.bits = checked_bits(bits)
        if max_bytes is not None and max_bytes < 1:
            raise ConfigError(f"max_bytes of a pool must be at least 1, or None for no limit; got {max_bytes!r}")
        self.max_bytes = max_bytes
        self._states: dict[Hashable, PackedState] = {}  # in the order of their last use
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._states

    def __iter__(self) -> Iterator[Hashable]:
        """The keys; the one that was used last comes last."""
        return iter(list(self._states))

    @property
    def nbytes(self) -> int:
        """Bytes of the packed arrays. Python's objects around them take about 2 KB more for each state."""
        return self._nbytes

    def put(self, key: Hashable, state: State | PackedState) -> list[Hashable]:
        """Keep a copy under this key, instead of what was there -> the keys that were dropped to keep within `max_bytes`.

        Raises ConfigError for a state that is larger than the whole pool, and FormatError for one that cannot be packed; nothing has
        changed then.
        """
        packed = state.packed(self.bits) if isinstance(state, State) else state
        if self.max_bytes is not None and packed.nbytes > self.max_bytes:
            raise ConfigError(f"a pool of {self.max_bytes} bytes has no room for a state of {packed.nbytes}; give it a larger max_bytes")
        self.discard(key)
        dropped: list[Hashable] = []
        while self.max_bytes is not None and self._nbytes + packed.nbytes > self.max_bytes:
            oldest = next(iter(self._states))
            self.discard(oldest)
            dropped.append(oldest)
        self._states[key] = packed
        self._nbytes += packed.nbytes
        return dropped

    def get(self, key: Hashable) -> PackedState | None:
        """What is under this key, for `slots.add`; it stays, and is now the one that was used last. None if nothing is there."""
        packed = self._states.pop(key, None)
        if packed is not None:
            self._states[key] = packed
        return packed

    def take(self, key: Hashable) -> PackedState | None:
        """The same, and the pool has it no longer."""
        packed = self._states.get(key)
        self.discard(key)
        return packed

    def discard(self, key: Hashable) -> None:
        """Forget what is under this key, if anything is."""
        packed = self._states.pop(key, None)
        if packed is not None:
            self._nbytes -= packed.nbytes

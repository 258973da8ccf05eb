"""States of texts that were read: a trie of token prefixes. A prompt that begins with one of them is read from there on.

A state is kept with every bit by default, so an answer after a cached prefix is the same, bit for bit. With `bits` 8 it is at rest in a
quarter of the bytes (runtime/states), which moves logits by a rounding; a user has to ask for that.

What was not used for the longest time is dropped to stay within `max_bytes`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rwkvquant.runtime.session import Logits
from rwkvquant.runtime.states.files import FULL_BITS, PackedState, State

OVERHEAD = 1000  # bytes of Python's objects around an entry, and 8 for each token


@dataclass(eq=False)
class Entry:
    """The state after `length` tokens; `logits` follow them, where a prompt ended there."""

    node: _Node
    length: int
    kept: State | PackedState
    logits: Logits | None

    @property
    def state(self) -> State:
        return self.kept.state() if isinstance(self.kept, PackedState) else self.kept

    @property
    def nbytes(self) -> int:
        arrays = self.kept.nbytes if isinstance(self.kept, PackedState) else sum(a.nbytes for a in self.kept.recurrent.arrays)
        return arrays + (0 if self.logits is None else self.logits.nbytes) + OVERHEAD + 8 * len(self.node.run)


@dataclass(frozen=True)
class Found:
    """`entry`: the longest cached prefix. `shared`: how many tokens some cached text has in common with the prompt, at least as many."""

    entry: Entry | None
    shared: int


class _Node:
    """A run of tokens after those of the parent. Children differ in their first token."""

    __slots__ = ("children", "entry", "parent", "run")

    def __init__(self, run: tuple[int, ...], parent: _Node | None) -> None:
        self.run, self.parent = run, parent
        self.children: dict[int, _Node] = {}
        self.entry: Entry | None = None


class Prefixes:
    """Not safe for several threads: the scheduler's thread alone uses it. `key` names what was in front of the first token."""

    def __init__(self, max_bytes: int, bits: int = FULL_BITS) -> None:
        self.max_bytes, self.bits = max_bytes, bits
        self.nbytes = self.hits = self.misses = 0
        self._roots: dict[str, _Node] = {}
        self._used: OrderedDict[Entry, None] = OrderedDict()  # the one that was used last comes last

    def __len__(self) -> int:
        return len(self._used)

    def __iter__(self) -> Iterator[tuple[str, tuple[int, ...], Entry]]:
        """All entries with their keys and tokens; the one that was used last comes last."""
        names = {id(root): key for key, root in self._roots.items()}
        for entry in list(self._used):
            runs, node = [], entry.node
            while node.parent is not None:
                runs.append(node.run)
                node = node.parent
            yield names[id(node)], tuple(token for run in reversed(runs) for token in run), entry

    def find(self, key: str, tokens: tuple[int, ...]) -> Found:
        """The longest cached prefix that can be continued: with all tokens only if their logits are there."""
        node, depth, best = self._roots.get(key), 0, None
        while node is not None:
            if node.entry is not None and (depth < len(tokens) or node.entry.logits is not None):
                best = node.entry
            child = node.children.get(tokens[depth]) if depth < len(tokens) else None
            if child is None:
                break
            same = common(child.run, tokens, depth)
            depth += same
            node = child if same == len(child.run) else None
        if best is not None:
            self._used.move_to_end(best)
            self.hits += 1
        else:
            self.misses += 1
        return Found(best, depth)

    def put(self, key: str, tokens: tuple[int, ...], state: State, logits: Logits | None = None) -> None:
        """Keep the state after these tokens. A state that is larger than the whole cache is not kept."""
        if not tokens or not self.max_bytes:
            return
        node = self._node(key, tokens)
        if node.entry is not None:
            logits = node.entry.logits if logits is None else logits
            self._forget(node.entry)
        kept = state if self.bits == FULL_BITS else state.packed(self.bits)
        entry = Entry(node, len(tokens), kept, None if logits is None else np.array(logits))
        node.entry = entry
        self._used[entry] = None
        self.nbytes += entry.nbytes
        while self.nbytes > self.max_bytes:
            oldest = next(iter(self._used))
            self._forget(oldest)
            self._prune(oldest.node)

    def clear(self, key: str | None = None) -> None:
        """Drop all entries, or those of one key."""
        for name, _, entry in list(self):
            if key is None or key == name:
                self._forget(entry)
                self._prune(entry.node)

    def _node(self, key: str, tokens: tuple[int, ...]) -> _Node:
        """The node at the end of these tokens, made if it is missing."""
        node, depth = self._roots.setdefault(key, _Node((), None)), 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                child = _Node(tokens[depth:], node)
                node.children[tokens[depth]] = child
                return child
            same = common(child.run, tokens, depth)
            if same < len(child.run):
                child = self._split(child, same)
            node, depth = child, depth + same
        return node

    def _split(self, node: _Node, length: int) -> _Node:
        """Divide a run after `length` tokens -> the new node in front, whose one child is `node`."""
        assert node.parent is not None
        front = _Node(node.run[:length], node.parent)
        node.parent.children[front.run[0]] = front
        before = node.entry.nbytes if node.entry else 0
        node.run, node.parent = node.run[length:], front
        self.nbytes += (node.entry.nbytes if node.entry else 0) - before
        front.children[node.run[0]] = node
        return front

    def _forget(self, entry: Entry) -> None:
        self.nbytes -= entry.nbytes
        del self._used[entry]
        entry.node.entry = None

    def _prune(self, node: _Node) -> None:
        """Remove a branch that leads to no entry."""
        while node.parent is not None and node.entry is None and not node.children:
            del node.parent.children[node.run[0]]
            node = node.parent


def common(run: Sequence[int], tokens: Sequence[int], start: int) -> int:
    """How many tokens of `run` are the same as those from `start` on."""
    most = min(len(run), len(tokens) - start)
    if run[:most] == tokens[start : start + most]:
        return most
    return next(i for i in range(most) if run[i] != tokens[start + i])

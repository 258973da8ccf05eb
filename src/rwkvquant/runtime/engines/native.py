"""The native engine: gets the file's arrays once, and then tokens in steps of 64 to 512, as the size of the model allows.

Matrices are not copied from the file. A prompt is read in as few steps as possible, and sequences side by side share a step. The logits
are the same bits for every division into steps and every number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import SYMBOLS, architecture
from rwkvquant.codecs import PackedTensor
from rwkvquant.codecs.dense import exact
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels import dispatch
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.runtime.engines.base import Array, Tuning, Which
from rwkvquant.runtime.weights import Weights
from rwkvquant.transforms import NONE, Applied

ACTIVATIONS = ("int8", "float32")
SHARES = ("measured", "equal")  # of the work, for each thread; "equal" is for benchmarks
TOGETHER = 8  # tokens: products take so many at a time, so steps are multiples of it
PREFETCH = ("measured", "table")  # or bytes, far and near: how far ahead products ask for memory (native/prefetch.h)
MOST_AHEAD = 1 << 20
COLUMNS = ("used", "all")  # of a matrix stored by columns: those that are not multiplied by zero, or all; "all" is for benchmarks
READ_ALL = 2  # native/columnwise.h, kDense


class NativeEngine:
    """Reads tokens into states."""

    def __init__(
        self,
        weights: Weights,
        threads: int,
        activations: str = "int8",
        shares: str = "measured",
        prefetch: str | tuple[int, int] = "measured",
        columns: str = "used",
    ) -> None:
        """Needs the native module. Raises FormatError for weights that do not fit together."""
        native = dispatch.native_module()
        assert native is not None
        self.name = str(native.isa())
        self._require_whole = weights.require_whole
        self._vocab = weights.dims.vocab
        dims = weights.dims
        sizes = {name: getattr(dims, name) for name in SYMBOLS.values()}
        vectors = {name: np.ascontiguousarray(values, np.float32).reshape(-1) for name, values in weights.vectors.items()}
        try:
            matrices = {
                name: held_matrix(native, name, packed, columns, weights.transforms.get(name, NONE))
                for name, packed in weights.matrices.items()
            }
            embedding = _held(native, architecture(weights.arch).embedding.name, _embedding(weights.embedding))
            self._engine = native.Engine(weights.arch, sizes, matrices, vectors, embedding, threads, activations == "int8")
        except ValueError as error:
            raise FormatError(str(error)) from None
        self.step_tokens = int(self._engine.step_tokens)
        if shares == "equal":
            self.fix_shares([1.0] * self.threads)
        if prefetch != "measured":
            self._engine.fix_prefetch(None if prefetch == "table" else prefetch)

    @property
    def threads(self) -> int:
        """How many threads work on one step: fewer than asked for where the system gives fewer."""
        return int(self._engine.threads)

    @property
    def shares(self) -> list[float]:
        """The share of the work that each thread has now. Their sum is 1; a thread that is left out has 0."""
        return list(self._engine.shares)

    @property
    def tuning(self) -> Tuning:
        """What has been measured until now, or fixed."""
        return Tuning(dict(self._engine.prefetch), str(self._engine.prefetch_source), tuple(self.shares))

    def fix_shares(self, shares: Sequence[float]) -> None:
        """For tests and benchmarks: these shares from now on, in any unit. Without any, they follow the measured speeds again."""
        self._engine.fix_shares(list(shares))

    def read(self, sequences: Sequence[Sequence[int]], state: RecurrentState, which: Which) -> tuple[list[Array], RecurrentState]:
        """See base.py."""
        before = state.map(lambda part: np.require(part, np.float32, ["C", "A"]))
        after = before.map(np.empty_like)
        return self._read(sequences, before, after, range(len(sequences)), which), after

    def advance(self, sequences: Sequence[Sequence[int]], state: RecurrentState, slots: Sequence[int], which: Which) -> list[Array]:
        """See base.py."""
        return self._read(sequences, state, state, slots, which)

    def _read(
        self, sequences: Sequence[Sequence[int]], before: RecurrentState, after: RecurrentState, slots: Sequence[int], which: Which
    ) -> list[Array]:
        if len(sequences) <= self.step_tokens and all(len(sequence) == 1 for sequence in sequences):  # decoding: the short way
            logits = np.empty((len(sequences), self._vocab), np.float32)
            parts = [(1, slot) for slot in slots]
            self._step([int(sequence[0]) for sequence in sequences], parts, before, after, list(range(len(sequences))), logits)
            return list(logits[:, None])
        rows = [len(sequence) if which == "all" else 1 for sequence in sequences]
        first_row = np.concatenate([[0], np.cumsum(rows)])
        logits = np.empty((first_row[-1], self._vocab), np.float32)
        for start in range(0, len(sequences), self.step_tokens):
            group = range(start, min(start + self.step_tokens, len(sequences)))
            self._read_group(sequences, group, before, after, slots, which, logits, first_row)
        return [logits[first_row[i] : first_row[i + 1]] for i in range(len(sequences))]

    def _read_group(
        self,
        sequences: Sequence[Sequence[int]],
        group: range,
        before: RecurrentState,
        after: RecurrentState,
        slots: Sequence[int],
        which: Which,
        logits: Array,
        first_row: NDArray[np.intp],
    ) -> None:
        """Read all tokens of sequences that fit into one step. Long ones get what short ones leave of it. Steps are about equal."""
        done = dict.fromkeys(group, 0)
        while running := [i for i in group if done[i] < len(sequences[i])]:
            lengths = [len(sequences[i]) - done[i] for i in running]
            most, left = longest_parts(lengths, self.step_tokens), max(lengths)
            steps = -(-left // most)
            each = min(most, -(-left // (steps * TOGETHER)) * TOGETHER)
            tokens: list[int] = []
            parts: list[tuple[int, int]] = []
            wanted: list[int] = []
            rows: list[int] = []
            for i in running:
                part = sequences[i][done[i] : done[i] + each]
                for at, token in enumerate(part, start=done[i]):
                    if which == "all" or at == len(sequences[i]) - 1:
                        wanted.append(len(tokens))
                        rows.append(first_row[i] + (at if which == "all" else 0))
                    tokens.append(int(token))
                parts.append((len(part), slots[i]))
                done[i] += len(part)
            together = rows == list(range(rows[0], rows[0] + len(rows))) if rows else True
            out = logits[rows[0] : rows[0] + len(rows)] if rows and together else np.empty((len(rows), self._vocab), np.float32)
            self._step(tokens, parts, before, after, wanted, out)
            if not together:
                logits[rows] = out
            before = after

    def _step(
        self,
        tokens: list[int],
        parts: list[tuple[int, int]],
        before: RecurrentState,
        after: RecurrentState,
        wanted: list[int],
        logits: Array,
    ) -> None:
        self._require_whole()
        ids, indices = np.array(tokens, np.uint32), np.array(wanted, np.uint32)
        self._engine.forward(ids, parts, *before.arrays, *after.arrays, indices, logits)


def longest_parts(lengths: Sequence[int], room: int) -> int:
    """The largest m for which the parts min(length, m) fit into `room` together; the longest length if all fit whole."""
    for index, length in enumerate(ordered := sorted(lengths)):
        share = room // (len(ordered) - index)
        if length > share:
            return share
        room -= length
    return ordered[-1]


def held_matrix(native: ModuleType, name: str, packed: PackedTensor, columns: str = "used", applied: Applied = NONE) -> Any:
    """The matrix for native code, which reads it where it is, and applies the transform to its input.

    Raises ValueError, with its name, if it breaks a rule of its layout.
    """
    arrays = applied.native(packed.shape[1]) or {}
    return _held(native, name, _matrix(packed, columns) | {name: np.asarray(array) for name, array in arrays.items()})


def chosen_activations(asked: str | None = None) -> str:
    """`asked`, or RWKVQUANT_ACTIVATIONS, or int8. Raises ConfigError if it is not one of ACTIVATIONS."""
    chosen = asked or os.environ.get("RWKVQUANT_ACTIVATIONS", "int8")
    if chosen not in ACTIVATIONS:
        raise ConfigError(f"activations must be one of {', '.join(ACTIVATIONS)}; got {chosen}")
    return chosen


def _held(native: ModuleType, name: str, arguments: dict[str, Any]) -> Any:
    try:
        return native.Matrix(**arguments)
    except ValueError as error:
        raise ValueError(f"{error} ({name})") from None


def _matrix(packed: PackedTensor, columns: str = "used") -> dict[str, Any]:
    """The arguments of native.Matrix. A matrix without a native product is decoded: 16 bits a weight where that is exact, otherwise 32."""
    form = packed.native_form()
    if form is None:
        return _matrix(exact(packed.decode()), columns)
    arguments = form.arguments(packed)
    if columns == "all" and "way" in arguments["numbers"]:
        arguments["numbers"] = {**arguments["numbers"], "way": READ_ALL}
    return arguments


def _embedding(packed: PackedTensor) -> dict[str, Any]:
    """The same for reading single rows."""
    form = packed.codec.native_rows(packed.packing)
    return _embedding(exact(packed.decode())) if form is None else form.arguments(packed)

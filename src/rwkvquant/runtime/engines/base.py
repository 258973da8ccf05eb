"""What every engine does: it reads tokens and updates states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.runtime.tokenizer_base import token_ids

Array = NDArray[np.float32]
Which = Literal["last", "all"]


@dataclass(frozen=True)
class Tuning:
    """What the native engine measures while it reads tokens. It changes how fast they are read, and never the results."""

    prefetch: Mapping[str, tuple[int, int]]
    """How far ahead the products of each kind of matrix ("uniform 3": codec and bits of a code) ask for memory, in bytes: far and near.

    With near 0, far brings it into the first cache. Otherwise far brings it into the second, and near into the first.
    """
    prefetch_source: str
    """Where that comes from: "table" for this CPU, "measuring", "measured", or "fixed"."""
    shares: tuple[float, ...]
    """The share of the work on a token that each thread has. A thread that is left out has 0."""

    def __str__(self) -> str:
        ahead = ", ".join(f"{kind}: {far}{f' and {near}' * (near > 0)} bytes" for kind, (far, near) in sorted(self.prefetch.items()))
        return f"prefetch {ahead} ({self.prefetch_source}); threads {', '.join(f'{share:.0%}' for share in self.shares)}"


class Engine(Protocol):
    """Both methods read B sequences side by side. The native engine gives the same bits however it divides them into steps and threads.

    `which` "last" gives one row of logits for each sequence, (1, vocab); "all" one for each of its tokens, (tokens, vocab).
    Callers have tested the tokens with `checked_tokens`. Both raise FormatError if the file with
    the weights became shorter since it was opened.
    """

    @property
    def name(self) -> str:
        """ "avx512", "neon", "reference", ..."""
        ...

    @property
    def threads(self) -> int: ...

    step_tokens: int
    """How many tokens one step has at most. A caller that reads no more at a time gets one step."""

    @property
    def tuning(self) -> Tuning | None:
        """None for an engine that has nothing to choose."""
        ...

    def read(self, sequences: Sequence[Sequence[int]], state: RecurrentState, which: Which) -> tuple[list[Array], RecurrentState]:
        """Read sequence i after the i-th state of `state`, which is not changed -> the logits of each, the states after them."""
        ...

    def advance(self, sequences: Sequence[Sequence[int]], state: RecurrentState, slots: Sequence[int], which: Which) -> list[Array]:
        """Read sequence i after the state in slot `slots[i]`, and replace that state by the one after it. The other slots do not change.

        `slots` are different from one another, and the arrays of `state` are contiguous. Its matrices are float32, or rows of 12 or 8
        bits (kernels/state_rows.py, kernels/state_rotated.py), which are then rounded after each token.
        """
        ...


def checked_tokens(sequences: Sequence[Sequence[int]], vocab: int, which: str) -> list[list[int]]:
    """The tokens as plain integers.

    Raises ConfigError for an unknown `which`, no sequence or an empty one; TokenizerError for a token that is not in the vocabulary.
    """
    if which not in ("last", "all"):
        raise ConfigError(f'logits must be "last" or "all"; got {which!r}')
    tokens = [token_ids(sequence, vocab) for sequence in sequences]
    if not tokens or not all(tokens):
        raise ConfigError("forward reads at least one sequence of at least one token; got an empty one")
    return tokens

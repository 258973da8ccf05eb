"""Which grid each matrix gets: the least total error that fits a budget of stored bits. Names and grids are opaque here.

Choosing one candidate per matrix under a total size is the multiple-choice knapsack problem. Its Lagrangian

    minimise  sum error + lambda * sum bytes

falls apart into one choice per matrix, and only candidates on the lower convex hull of (bytes, error) are ever chosen.
Lowering lambda walks along the hulls, always the step next that saves most error per byte, so taking steps in that order
replaces the search for lambda. A step that no longer fits is replaced by the steepest shorter one of its matrix, to a candidate
off the hull, which waits for its turn.

The result is met from below, deterministic, never worse with more bits, and its error exceeds the least possible by less than
that of the first step that did not fit (the budget spent to the last bit on the hulls, a step taken in part, is a lower bound).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import ceil, floor
from typing import NamedTuple, TypeVar

from rwkvquant.errors import ConfigError

Grid = TypeVar("Grid")
Item = tuple[int, float, Grid]  # stored bytes, error, grid
OVERRIDE_BITS = range(2, 9)


class Step(NamedTuple):
    """Going from one candidate of a matrix to a larger one, both by index. The steepest sorts first, ties by name and size."""

    slope: float  # error per byte, negative
    name: str
    target: int
    bytes: int


def fit_budget(
    candidates: Mapping[str, Sequence[Item[Grid]]],
    weights_count: Mapping[str, int],
    bits: float,
    explicit: bool,
) -> tuple[dict[str, Grid], float]:
    """(bytes, error, grid) candidates of each matrix and its number of weights -> (a grid for each, bits per weight of all).

    Where even the smallest candidates exceed `bits` per weight: raises ConfigError if `explicit`, else returns the smallest.
    """
    if not 0 < bits < float("inf"):
        raise ConfigError(f"bits must be a positive number; got {bits}")
    total = sum(weights_count[name] for name in candidates)
    useful = {name: _by_size(found) for name, found in candidates.items()}
    chosen = dict.fromkeys(useful, 0)
    spent = sum(found[0][0] for found in useful.values())
    budget = floor(Fraction(str(bits)) * total / 8)  # the decimal number that was typed, not its binary neighbour
    if spent > budget and explicit:
        smallest = Fraction(8 * spent, total)
        raise ConfigError(
            f"bits {bits:g} cannot be reached; the smallest reachable for these shapes is {float(smallest):.4f} bits per weight, scales "
            f"and padding included. Try --bits {ceil(1000 * smallest) / 1000}"
        )

    steps = [step for name, found in useful.items() for step in _steepest(name, found, 0, len(found))]  # one for each matrix
    heapify(steps)
    while steps:
        _, name, target, size = heappop(steps)
        found, stop = useful[name], target
        if spent + size <= budget:
            chosen[name] = target
            spent += size
            stop = len(found)
        for step in _steepest(name, found, chosen[name], stop):
            heappush(steps, step)
    return {name: useful[name][index][2] for name, index in chosen.items()}, 8 * spent / total


def override_bits(tensor_bits: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """("PATTERN=BITS", ...) -> the bits of every name that a pattern matches; the last match counts.

    A pattern is any run of a name's dotted parts, with * ? [..] as in file names: "blocks.0.att.value", "att.value", "w?".
    Raises ConfigError for a pattern without bits, or one that matches nothing.
    """
    found: dict[str, int] = {}
    for override in tensor_bits:
        pattern, equals, bits = override.rpartition("=")
        if not equals or not pattern or not bits.isdecimal() or int(bits) not in OVERRIDE_BITS:
            raise ConfigError(
                f"a tensor's bits are given as PATTERN=BITS, BITS from {OVERRIDE_BITS[0]} to {OVERRIDE_BITS[-1]}; got {override!r}. "
                "Try 'blocks.0.att.value=8'"
            )
        matched = matching_names(pattern, names)
        if not matched:
            near = near_names(pattern, names)
            raise ConfigError(
                f"no projection or LoRA factor has a name like {pattern!r} ({override}; head and embedding have options). {near}"
            )
        found |= dict.fromkeys(matched, int(bits))
    return found


def matching_names(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that have a run of dotted parts like the pattern."""
    return [name for name in names if fnmatchcase(f".{name}.", f"*.{pattern}.*")]


def _by_size(candidates: Sequence[Item[Grid]]) -> list[Item[Grid]]:
    """Sorted by bytes, and without those that a candidate of no more bytes beats or equals."""
    kept: list[Item[Grid]] = []
    for candidate in sorted(candidates, key=lambda c: (c[0], c[1])):
        if not kept or candidate[1] < kept[-1][1]:
            kept.append(candidate)
    assert kept, "a matrix without candidates"
    return kept


def _steepest(name: str, found: Sequence[Item[Grid]], source: int, stop: int) -> list[Step]:
    """The step from `source` that saves most error per byte, of those to targets before `stop`; [] if there are none."""
    steps = []
    for target in range(source + 1, stop):
        size, saved = found[target][0] - found[source][0], found[source][1] - found[target][1]
        steps.append(Step(-saved / size, name, target, size))
    return [min(steps)] if steps else []


def near_names(pattern: str, names: Sequence[str]) -> str:
    """A hint: names, or runs of their parts, that look like the pattern."""
    length = pattern.count(".") + 1
    parts = [name.split(".") for name in names]
    runs = {".".join(part[at : at + length]) for part in parts for at in range(len(part) - length + 1)}
    near = difflib.get_close_matches(pattern, sorted(runs), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else f"The names are like {names[0]}." if names else "There are none."

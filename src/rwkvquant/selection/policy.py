"""Which candidate each matrix gets: the least total error within a budget of stored bits. A candidate's payload ("grid") is not read.

Choosing one candidate per matrix under a total size is the multiple-choice knapsack problem. Its Lagrangian

    minimise  sum error + lambda * sum bytes

is a separate choice for each matrix, and only candidates on the lower convex hull of (bytes, error) are chosen. When lambda falls,
matrices step along their hulls, and the step that saves most error per byte always comes first. So steps are taken in that order,
and no search for lambda is needed. A step that does not fit any more is replaced by the steepest shorter step of its matrix, to a
candidate that is not on the hull. That step is then tried in order as well.

The result is deterministic, never over the budget, and never worse with more bits. Its error is above the least possible by less than
what the first step that did not fit would save (a lower bound is to spend the whole budget on the hulls, with the last step in part).
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
    """A step of a matrix from its current candidate to a larger one, by index. The steepest sorts first, then by name and size."""

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
    useful = {name: _by_size(items) for name, items in candidates.items()}
    chosen = dict.fromkeys(useful, 0)
    spent = sum(items[0][0] for items in useful.values())
    budget = floor(Fraction(str(bits)) * total / 8)  # of the decimal number that was typed, not of the nearest binary one
    if spent > budget and explicit:
        smallest = Fraction(8 * spent, total)
        raise ConfigError(
            f"bits {bits:g} cannot be reached; the smallest reachable for these shapes is {float(smallest):.4f} bits per weight, scales "
            f"and padding included. Try --bits {ceil(1000 * smallest) / 1000}"
        )

    steps = [step for name, items in useful.items() for step in _steepest(name, items, 0, len(items))]  # one for each matrix
    heapify(steps)
    while steps:
        _, name, target, size = heappop(steps)
        items, stop = useful[name], target
        if spent + size <= budget:
            chosen[name] = target
            spent += size
            stop = len(items)
        for step in _steepest(name, items, chosen[name], stop):
            heappush(steps, step)
    return {name: useful[name][index][2] for name, index in chosen.items()}, 8 * spent / total


def override_bits(tensor_bits: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """("PATTERN=BITS", ...) -> the bits of every name that a pattern matches; of several matches the last counts.

    A pattern is any run of dotted parts of a name, with * ? [..] as in file names: "blocks.0.att.value", "att.value", "w?".
    Raises ConfigError for a pattern without bits, or one that matches nothing.
    """
    chosen: dict[str, int] = {}
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
                f"no projection or LoRA factor has a name like {pattern!r} ({override}; head and embedding have their own options). {near}"
            )
        chosen |= dict.fromkeys(matched, int(bits))
    return chosen


def matching_names(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that have a run of dotted parts like the pattern."""
    return [name for name in names if fnmatchcase(f".{name}.", f"*.{pattern}.*")]


def _by_size(candidates: Sequence[Item[Grid]]) -> list[Item[Grid]]:
    """Sorted by bytes, without candidates for which another of no more bytes has no more error."""
    kept: list[Item[Grid]] = []
    for candidate in sorted(candidates, key=lambda c: (c[0], c[1])):
        if not kept or candidate[1] < kept[-1][1]:
            kept.append(candidate)
    assert kept, "a matrix without candidates"
    return kept


def _steepest(name: str, items: Sequence[Item[Grid]], source: int, stop: int) -> list[Step]:
    """The step from `source` that saves most error per byte, of those to targets before `stop`; [] if there are none."""
    steps = []
    for target in range(source + 1, stop):
        size, saved = items[target][0] - items[source][0], items[source][1] - items[target][1]
        steps.append(Step(-saved / size, name, target, size))
    return [min(steps)] if steps else []


def near_names(pattern: str, names: Sequence[str]) -> str:
    """A hint: names, or runs of their parts, that look like the pattern."""
    length = pattern.count(".") + 1
    parts = [name.split(".") for name in names]
    runs = {".".join(part[at : at + length]) for part in parts for at in range(len(part) - length + 1)}
    near = difflib.get_close_matches(pattern, sorted(runs), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else f"The names are like {names[0]}." if names else "There are none."

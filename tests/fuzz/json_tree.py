"""Changes of one node in a tree of JSON: removed, moved, renamed or replaced."""

from __future__ import annotations

import copy
from typing import Any

from tests.fuzz.choices import Choices

NUMBERS = (0, 1, -1, 2, 31, 32, 63, 64, 65, 96, 1 << 20, 1 << 31, 1 << 32, 1 << 53, 1 << 62, 10**30, 0.5, 1e300)
NAMES = ("name", "tokenizer.table", "a" * 300, "blocks.7.x.codes", "__metadata__", "")
LAYOUTS = ("uniform1.t16x64", "uniform3.t16x32", "uniform8.rows", "codebook3.t16x32", "codebook4.rows", "pairs5.t16x32", "dense.f32")
TEXTS = (
    "",
    "none",
    "scale",
    "0" * 8,
    "blocks.0.x",
    "U8",
    "I8",
    "F16",
    "F32",
    "F64",
    "BF16",
    "world",
    "bpe",
    "json",
    "bytes",
    "\ud800",
    *LAYOUTS,
)
TREES: tuple[Any, ...] = ([], [0], [1 << 31, 1 << 31], [32, 32], [1, 1, 32], [[[]]], {}, {"a": 1})
VALUES = (None, True, False, *NUMBERS, *TEXTS, *TREES)


def mutate(tree: dict[str, Any], choices: Choices) -> None:
    """Change one node somewhere, in place."""
    owners: list[Any] = []
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if node:
            owners.append(node)
        stack += [child for child in (node.values() if isinstance(node, dict) else node) if isinstance(child, dict | list)]
    if not owners:
        return
    owner = choices.one_of(owners)
    key = choices.one_of(list(owner)) if isinstance(owner, dict) else choices.below(len(owner))
    kind = choices.below(5)
    if kind == 0:
        del owner[key]
    elif kind == 1 and type(owner[key]) is int:
        owner[key] += choices.one_of([-64, -1, 1, 64, owner[key]])
    elif kind == 2:
        other = choices.one_of(owners)
        owner[key] = copy.deepcopy(choices.one_of(list(other.values()) if isinstance(other, dict) else other))
    elif kind == 3 and isinstance(owner, dict):
        owner[choices.one_of(NAMES)] = owner.pop(key)
    else:
        owner[key] = copy.deepcopy(choices.one_of(VALUES))

"""Moving single sequences in and out of a state of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from rwkvquant.kernels.state import State


def put(state: State, slots: Sequence[int], values: State) -> None:
    """Write sequence i of `values` to slot `slots[i]` of `state`, in place."""
    for field in fields(State):
        getattr(state, field.name)[:, list(slots)] = getattr(values, field.name)

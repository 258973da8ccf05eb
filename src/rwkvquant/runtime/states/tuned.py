"""Begin with a state from a file: a tuned state of other tools, or a conversation that was saved. The content decides which it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from rwkvquant.architectures import Dims, architecture
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.runtime.states.files import SAVED_KEY, State


@dataclass(frozen=True)
class StateFile:
    """A state from a file. `tuned`: nothing was read into it yet, so a text begins with it. Otherwise a conversation continues."""

    state: State
    tuned: bool


def tuned_state(path: str | os.PathLike[str], arch: str, dims: Dims, order: str | None = None) -> State:
    """The state of a model of this architecture and size that begins with a tuned state. What the file does not give is zero.

    `order` "value-key" or "key-value"; see checkpoints/tuned_state.py, also for the errors.
    """
    from rwkvquant.checkpoints.tuned_state import read_tuned_state  # here, because most models are used without one

    arrays = read_tuned_state(Path(path), architecture(arch), dims, order)
    return begin_with(arrays, arch, dims)


def begin_with(arrays: dict[str, np.ndarray], arch: str, dims: Dims) -> State:
    """The state before the first token: zeros, and the values of `arrays`, which are of one sequence."""
    recurrent = architecture(arch).zero_state(dims)
    for array, values in zip(recurrent.spec, recurrent.arrays, strict=True):
        if array.name in arrays:
            values[:] = np.expand_dims(arrays[array.name], array.batch_axis)
    return State(arch, recurrent)


def open_state(path: str | os.PathLike[str], arch: str, dims: Dims, order: str | None = None) -> StateFile:
    """A tuned state, or a saved conversation. `order` is only for a tuned state.

    Raises FormatError or CheckpointError for any other file, and for the state of another model; ConfigError for an order that is
    unknown or is given with a conversation.
    """
    if not is_saved(path):
        return StateFile(tuned_state(path, arch, dims, order), tuned=True)
    if order is not None:
        raise ConfigError(f"the order {order} is for a tuned state; {path} is a saved conversation, which needs none")
    state = State.load(path)
    try:
        state.require(arch, dims)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    return StateFile(state, tuned=False)


def is_saved(path: str | os.PathLike[str]) -> bool:
    """Whether the file says that `State.save` wrote it."""
    if not Path(path).is_file():
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            return SAVED_KEY in (file.metadata() or {})
    except (SafetensorError, OSError, TypeError, ValueError):
        return False

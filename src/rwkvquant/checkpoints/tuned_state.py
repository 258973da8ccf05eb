"""A tuned state alone: one tensor `time_state` for each block, in a .pth or a safetensors file, without the model's weights.

A matrix of a head is (N, N), so its shape does not show which index comes first. Two orders exist:

    value-key    [value, key]: the training kernels of RWKV-6 and RWKV-7, so what RWKV-LM and RWKV-PEFT save as .pth
    key-value    [key, value]: web-rwkv's files, which its converter wrote from a .pth; the state in memory of the rwkv package for RWKV-6
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Architecture, Dims, Role
from rwkvquant.checkpoints.names import PREFIXES
from rwkvquant.checkpoints.open import kind, open_file
from rwkvquant.checkpoints.tensor_info import TensorFile
from rwkvquant.checkpoints.wrappers import UnwrappedFile
from rwkvquant.errors import CheckpointError, ConfigError

ORDERS = ("value-key", "key-value")
ORDER_OF_LAYOUT = {"blinkdl": "value-key", "web-rwkv": "key-value"}  # of a safetensors file that names its layout
SUPPORTED = "a state is a .pth or a safetensors file with the tensors of a tuned state, or a conversation that was saved"


def read_tuned_state(path: Path, architecture: Architecture, dims: Dims, order: str | None = None) -> dict[str, NDArray[np.float32]]:
    """The arrays of the recurrent state that the file begins, each with one entry for each block: {"wkv": (L, H, N, N)}, [value, key].

    `order`: one of ORDERS. None: value-key in a .pth, key-value in safetensors (or as the file's metadata says).
    Raises CheckpointError unless the file holds a tuned state of a model with these sizes, and ConfigError for an unknown order.
    """
    if order not in (None, *ORDERS):
        raise ConfigError(f"the order of a tuned state must be one of {', '.join(ORDERS)}; got {order}")
    try:
        if kind(path, SUPPORTED) == "index":
            raise CheckpointError(f"this is a JSON file; {SUPPORTED}")
        return _arrays(UnwrappedFile(open_file(path)), architecture, dims, order)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def usual_order(file: TensorFile) -> str:
    """The order that the tools which write such a file use."""
    return ORDER_OF_LAYOUT.get(file.written_as or "web-rwkv", "key-value")


def _arrays(file: UnwrappedFile, architecture: Architecture, dims: Dims, order: str | None) -> dict[str, NDArray[np.float32]]:
    specs = {spec.name: spec for spec in architecture.table if spec.role is Role.STATE}
    if not specs:
        raise CheckpointError(f"{architecture.title} has no tuned states")
    stored = {_without_prefix(name): name for name in file.tensors}
    own = {name: stored[name] for name in stored if architecture.split(name)[1] in specs}
    _refuse_others(own, stored, architecture.full_name("N", next(iter(specs))))
    expected = {architecture.full_name(layer, key): spec for key, spec in specs.items() for layer in range(dims.layers)}
    for name in own:
        if name not in expected:
            raise CheckpointError(f"the model has {dims.layers} blocks, so its tuned state has no {name}: this is another model's state")
    swapped = (order or usual_order(file)) == "key-value"
    layers: dict[str, list[NDArray[np.float32]]] = {}
    for name, spec in expected.items():
        if name not in own:
            raise CheckpointError(f"a tuned state has a tensor for each of the model's {dims.layers} blocks; this file lacks {name}")
        shape, found = spec.forward_shape(dims), file.tensors[own[name]].shape
        if found != shape:
            raise CheckpointError(f"{name} must have the shape {shape}, which is ({_symbols(spec.shape)}) of the model; got {found}")
        values = file.read(own[name])
        layers.setdefault(str(spec.starts), []).append(values.swapaxes(-1, -2) if swapped else values)
    return {array: np.ascontiguousarray(np.stack(parts)) for array, parts in layers.items()}


def _refuse_others(own: dict[str, str], stored: dict[str, str], example: str) -> None:
    others = [name for name in stored if name not in own]
    if not own:
        raise CheckpointError(f"a tuned state has the tensors {example}; this file has none, its first tensor is {others[0]}")
    if others:
        raise CheckpointError(
            f"a tuned state has only the tensors {example}; this file also has {others[0]}; a whole checkpoint is run as the model"
        )


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _symbols(shape: tuple[str | int, ...]) -> str:
    return ", ".join(map(str, shape))

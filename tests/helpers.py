"""Random checkpoints of any shape, in the official layout, whose forward stays far from zero and infinity; and a way to kill a process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rwkvquant.architectures import ARCHITECTURES, Role

TEXT = [name for name, each in ARCHITECTURES.items() if each.modality == "text" and not each.grows]  # random_state_dict makes these
DEFAULT_RANKS = {"Rw": 16, "Ra": 16, "Rv": 8, "Rg": 24, "Rm": 8, "Rd": 16}


def random_state_dict(
    arch: str,
    *,
    layers: int = 2,
    width: int = 64,
    head_size: int = 16,
    hidden: int | None = None,
    vocab: int = 256,
    ranks: dict[str, int] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    first_layer_v: bool = True,
    time_state: bool = False,
) -> dict[str, torch.Tensor]:
    """Every tensor of architectures/ with random values; `first_layer_v` keeps the unused v0, v1, v2 of layer 0."""
    generator = torch.Generator().manual_seed(seed)
    ranks = DEFAULT_RANKS | (ranks or {})
    sizes: dict[str, int] = {
        "C": width,
        "F": hidden or 4 * width,
        "V": vocab,
        "N": head_size,
        "H": width // head_size,
        "5*Rm": 5 * ranks["Rm"],
    }
    sizes |= ranks

    def draw(role: Role, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        normal = torch.randn(shape, generator=generator)
        if role is Role.NORM:
            return (1.0 if name.endswith("weight") else 0.0) + 0.1 * normal
        if role is Role.ELEMENTWISE:
            return 0.5 + 0.3 * normal
        if role in (Role.BIAS, Role.STATE):
            return 0.5 * normal
        return normal / shape[-1] ** 0.5

    state_dict: dict[str, torch.Tensor] = {}
    for layer in range(-1, layers):
        for spec in ARCHITECTURES[arch].table if layer >= 0 else ARCHITECTURES[arch].outside:
            if spec.role is Role.STATE and not time_state:
                continue
            if layer >= 0 and ((spec.layers == "first" and layer > 0) or (spec.layers == "later" and layer == 0 and not first_layer_v)):
                continue
            shape = tuple(s if isinstance(s, int) else sizes[s] for s in spec.shape)
            name = spec.name if layer < 0 else f"blocks.{layer}.{spec.name}"
            state_dict[name] = draw(spec.role, spec.name, shape).to(dtype)
    return state_dict


def write_pth(path: Path | str, state_dict: dict[str, torch.Tensor]) -> Path:
    torch.save(state_dict, path)
    return Path(path)


def killed_at(call: int, work: Callable[[], object]) -> int | None:
    """Do `work` in a child process that sends itself SIGKILL at this Python call -> None if it was killed, else its number of calls.

    Calls are the same on every machine, busy or not. Any other end of the child is an AssertionError.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(count)
            work()
            sys.setprofile(None)
            os.write(writer, str(calls).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as end:
        counted = end.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the child ended with {status}"
    return None if status else int(counted)

"""A pretended device: its tensors claim to be on it, the CPU computes with them, and they must not mix with ordinary CPU tensors.

Without a GPU, this finds what a GPU would refuse: an operation on tensors of two devices, for example with a tensor made without
`device=`, and `.numpy()` of a tensor without `.cpu()` before it. It says nothing about results or speed on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")  # torch has this device everywhere; its tensors have no values, so `Elsewhere` keeps them


class Elsewhere(Tensor):
    """A tensor of DEVICE; `inner`, on the CPU, holds its values."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("use it under OtherDevice()")

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise AssertionError("a GPU's tensor has no .numpy(); .cpu() comes first")


class OtherDevice(TorchDispatchMode):
    """Inside this context, `there` makes tensors of DEVICE, and operations on two devices fail."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; torch would import its compiler, which takes seconds

    def there(self, values: Tensor) -> Tensor:
        return Elsewhere(values.clone())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [*_tensors(args), *_tensors(kwargs or {})]
        kwargs, moves = dict(kwargs or {}), func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        here = any(isinstance(x, Elsewhere) for x in tensors)
        if here and not moves:
            indexed = func is torch.ops.aten.index.Tensor and isinstance(args[0], Elsewhere)
            indices = args[1] if indexed else []  # a GPU takes these from the CPU
            strangers = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim() and not any(x is index for index in indices)]
            assert not strangers, f"{func} has tensors of two devices"
        device = kwargs.get("device")
        if device is not None:
            here = torch.device(device).type == DEVICE.type
            kwargs["device"] = torch.device("cpu")
        result = func(*_inner(args), **_inner(kwargs))
        same = {id(x.inner): x for x in tensors if isinstance(x, Elsewhere)}
        return _outer(result, same, here)


# Instead of torch's tree_map, for the few containers that operations take: that one takes two thirds of the time of a test.
def _inner(value: Any) -> Any:
    if isinstance(value, Elsewhere):
        return value.inner
    if isinstance(value, list | tuple):
        return type(value)([_inner(part) for part in value])
    return {key: _inner(part) for key, part in value.items()} if isinstance(value, dict) else value


def _outer(value: Any, same: dict[int, Elsewhere], here: bool) -> Any:
    """A tensor that was changed in place is the one that was given."""
    if isinstance(value, Tensor):
        known = same.get(id(value))
        return known if known is not None else Elsewhere(value) if here else value
    if isinstance(value, list | tuple):
        return type(value)([_outer(part, same, here) for part in value])
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)

"""A parcel holds the numbers of its tensors alone, and they arrive with the same strides, in memory that torch would give them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rwkvquant.errors import ConfigError
from rwkvquant.pipeline.parcels import packed, unpacked

WHOLE = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Pair:
    name: str
    a: Tensor
    b: Tensor | None = None


VIEWS = {
    "whole": WHOLE,
    "transposed": WHOLE.T,
    "rows": WHOLE[3:9],
    "columns": WHOLE[:, 5:70],
    "every second": WHOLE[::2, ::3],
    "a vector": WHOLE[0],
    "a number": WHOLE[1, 1],
    "nothing": WHOLE[:0],
    "float64": WHOLE.double(),
    "int64": torch.arange(7),
    "bool": WHOLE > 0,
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_tensor_arrives_with_its_numbers_and_strides(name: str) -> None:
    view = VIEWS[name]
    arrived = unpacked(packed(Pair("x", view))).a
    assert torch.equal(arrived, view) and arrived.dtype == view.dtype
    assert arrived.stride() == view.stride()
    assert arrived.data_ptr() % 64 == 0 or not arrived.numel(), "torch's own alignment"
    assert not arrived.numel() or arrived.data_ptr() != view.data_ptr()


def test_only_the_numbers_of_a_view_travel() -> None:
    assert packed(Pair("x", WHOLE[3:9])).size < 6 * 96 * 4 + 1000


def test_a_tensor_that_is_there_twice_travels_once() -> None:
    parcel = packed(Pair("x", WHOLE, WHOLE))
    assert parcel.size < WHOLE.numel() * 4 + 1000
    both = unpacked(parcel)
    assert both.a is both.b


def test_a_tensor_of_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="the device of this job is meta"):
        packed(Pair("x", torch.ones(2, device="meta")))

"""The errors of many grids at once are those of rounding to each grid, to the last bit, and need few operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rwkvquant import QuantizeRequest
from rwkvquant.codecs import CodebookConfig, GridConfig
from rwkvquant.config import CLIP_SEARCHES
from rwkvquant.pipeline.matrices import quantize_matrix, rounding_errors
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.uniform import rounding_errors as module
from rwkvquant.quantizers.uniform.rounding_errors import rtn_errors
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.recipes import recipe_for
from rwkvquant.recipes.setting import Setting

GRIDS: Any = [setting.codec for setting in recipe_for(QuantizeRequest(method="rtn")).candidates]
OTHERS = [GridConfig(3, 64, True, 16), GridConfig(8, 32, True, 8), GridConfig(1, 64, False, 16), GridConfig(4, 5000)]


def weights(rows: int, cols: int, kind: str = "plain") -> torch.Tensor:
    W = torch.randn(rows, cols, generator=torch.Generator().manual_seed(rows + cols))
    if kind == "ties":
        W = (2 * W).round() / 4
    if kind == "outliers":
        W[:, ::17] *= 30
    if kind == "one sign":
        W = W.abs()
    if kind == "zeros":
        W[:, : cols // 2] = 0
        W[0] = 0
    return 1e-7 * W if kind == "tiny" else W


def one_by_one(W: torch.Tensor, grids: list[GridConfig], clip_search: str) -> list[float]:
    decoded = [torch.from_numpy(rtn(W, grid, "weight" if clip_search == "hessian" else clip_search).decode()) for grid in grids]
    return [float((W - Q).double().square().sum()) for Q in decoded]


@pytest.mark.parametrize("clip_search", CLIP_SEARCHES)
@pytest.mark.parametrize("kind", ["plain", "ties", "outliers", "one sign", "zeros", "tiny"])
def test_errors_are_those_of_rounding_one_by_one(kind: str, clip_search: str) -> None:
    W = weights(16, 200, kind)  # no multiple of any group
    grids: Any = GRIDS + OTHERS
    assert rtn_errors(W, grids, QuantizerOptions(clip_search=clip_search)) == one_by_one(W, grids, clip_search)


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 14, 1 << 22])
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (16, 256)])
def test_the_size_of_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], chunk: int) -> None:
    W = weights(*shape)
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert rtn_errors(W, GRIDS, QuantizerOptions()) == one_by_one(W, GRIDS, "weight")


def test_settings_of_several_methods_keep_their_places() -> None:
    W, options = weights(8, 64), QuantizerOptions()
    settings = [
        Setting("gptvq", CodebookConfig(2, 4)),
        Setting("gptq", GridConfig(3, 32)),
        Setting("kmeans", CodebookConfig(3, 4)),
        Setting("rtn", GridConfig(5)),
    ]
    by_hand = [quantize_matrix(setting.plain, options, W, None).decode() for setting in settings]
    assert rounding_errors(settings, options, W) == [float((W - torch.from_numpy(Q)).double().square().sum()) for Q in by_hand]


class Counter(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_small_matrix_takes_few_operations() -> None:
    """One grid after the other needs about 15000; for a small matrix the time depends on how many operations there are."""
    with Counter() as counter:
        rtn_errors(weights(16, 256), GRIDS, QuantizerOptions())
    assert counter.calls < 100 * len(GRIDS)

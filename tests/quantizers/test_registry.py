"""A method's name and a codec's parameters give a quantiser; the codec of another package is registered in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rwkvquant.codecs import (
    CodebookConfig,
    ColumnwiseConfig,
    GridConfig,
    PairConfig,
    PolarConfig,
    RowTablesConfig,
    SectionsConfig,
    VectorsConfig,
)
from rwkvquant.errors import ConfigError
from rwkvquant.pipeline.matrices import quantize_matrix
from rwkvquant.quantizers import Quantizer, QuantizerOptions, quantizer_for, quantizers, register, unregister
from rwkvquant.quantizers.codebook.gptvq import gptvq
from rwkvquant.quantizers.codebook.paper import gptvq_paper, kmeans_paper
from rwkvquant.quantizers.registry import _load
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.uniform.gptq import gptq
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.quantizers.uniform.update import refine_grid
from rwkvquant.recipes.setting import Setting
from tests.quantizers.examples import matrix_and_hessian

METHODS = [
    ("rtn", GridConfig(3, 32)),
    ("gptq", GridConfig(3, 32)),
    ("gptaq", GridConfig(3, 32)),
    ("qronos", GridConfig(3, 32)),
    ("kmeans", CodebookConfig(3, 4)),
    ("gptvq", CodebookConfig(3, 4, 2)),
    ("kmeans", PairConfig(4, 16)),
    ("gptvq", PairConfig(4, 16)),
    ("kmeans", RowTablesConfig(3)),
    ("lnq", RowTablesConfig(3)),
    ("kmeans", VectorsConfig(4, 5, 3)),
    ("vptq", VectorsConfig(4, 5, 3)),
    ("pcdvq", PolarConfig(12, 4)),
    ("ldlq", PolarConfig(12, 4)),
    *((method, codec) for method in ("kmeans", "gptvq") for codec in (ColumnwiseConfig(3), SectionsConfig(3))),
]


@dataclass(frozen=True)
class SignConfig:
    """A toy codec: every weight is plus or minus the mean size of its row."""


@dataclass(frozen=True)
class SignTensor:
    codes: NDArray[np.uint8]
    scale: NDArray[np.float32]

    def decode(self) -> NDArray[np.float32]:
        return self.scale[:, None] * (2.0 * self.codes - 1).astype(np.float32)


def signs(W: torch.Tensor, hessian: Hessian | None, codec: SignConfig, options: QuantizerOptions) -> SignTensor:
    return SignTensor((W >= 0).numpy().astype(np.uint8), W.abs().mean(1).float().numpy())


@pytest.fixture
def toy() -> Iterator[Quantizer]:
    quantizer = register("signs", SignConfig, signs)
    yield quantizer
    unregister(quantizer)


def test_a_toy_codec_is_quantised_by_the_same_call(toy: Quantizer) -> None:
    W = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    setting: Any = Setting("signs", SignConfig())  # type: ignore[arg-type]
    assert quantize_matrix(setting, QuantizerOptions(), W, None).decode().tolist() == [[2.0, -2.0], [0.5, 0.5]]
    assert toy.rounding_errors(W, [SignConfig()], QuantizerOptions()) == [2.0]
    assert (toy.feedback, toy.plain) == (False, "signs") and toy in quantizers()


@pytest.mark.parametrize(("method", "codec"), METHODS, ids=str)
def test_every_method_gives_its_codec_and_says_what_it_needs(method: str, codec: Any) -> None:
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 20, 64))
    quantizer = quantizer_for(method, codec)
    assert quantizer.feedback == (method in ("gptq", "gptaq", "qronos", "gptvq", "ldlq", "lnq", "vptq"))
    assert quantizer.drift == Setting(method, codec).drift == (method in ("gptaq", "qronos"))
    plain = quantizer_for(quantizer.plain, codec)
    assert not plain.feedback
    for options in (QuantizerOptions(), QuantizerOptions("paper", "none", False, 0.01)):
        quantised, without = quantizer(W, Hessian(H, W.dtype), codec, options), plain(W, None, codec, options)
        assert type(quantised) is type(without) and quantised.shape == without.shape == W.shape


def test_options_reach_the_methods() -> None:
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(2, 8, 64))
    grid, codebook, options = GridConfig(3, 32), CodebookConfig(3, 2, 4), QuantizerOptions("tuned", "hessian", True, 0.05)
    unrefined, paper = replace(options, refined=False), QuantizerOptions("paper", "weight", False, 0.01)

    def decoded(method: str, codec: Any, options: QuantizerOptions, hessian: bool = True) -> NDArray[np.float32]:
        weights: NDArray[np.float32] = quantizer_for(method, codec)(W, Hessian(H, W.dtype) if hessian else None, codec, options).decode()
        return weights

    by_hand = gptq(W, H, grid, damping=0.05, act_order=True, clip_search="hessian")
    np.testing.assert_array_equal(decoded("gptq", grid, unrefined), by_hand.decode())
    np.testing.assert_array_equal(decoded("gptq", grid, options), refine_grid(W, H, by_hand).decode())
    in_order = gptq(W, H, grid, damping=0.01, act_order=False, clip_search="weight")
    np.testing.assert_array_equal(decoded("gptq", grid, paper), in_order.decode())
    np.testing.assert_array_equal(decoded("rtn", grid, options), rtn(W, grid, "hessian", H.diagonal()).decode())
    np.testing.assert_array_equal(decoded("rtn", grid, options, hessian=False), rtn(W, grid, "weight").decode())
    np.testing.assert_array_equal(decoded("gptvq", codebook, unrefined), gptvq(W, H, bits=3, rank=4, rounds=0).decode())
    np.testing.assert_array_equal(decoded("gptvq", codebook, paper), gptvq_paper(W, H, 3, 2, rank=4).decode())
    np.testing.assert_array_equal(decoded("kmeans", codebook, paper), kmeans_paper(W, 3, 2, rank=4).decode())


def test_a_factor_is_made_once_for_each_set_of_options() -> None:
    _, H = matrix_and_hessian(3)
    hessian, made = Hessian(torch.from_numpy(H), torch.float64), []

    def make(H: torch.Tensor, *, damping: float, act_order: bool) -> Any:
        made.append((damping, act_order))
        return object()

    some, other = QuantizerOptions(damping=0.1), QuantizerOptions(damping=0.2, act_order=False)
    assert hessian.factor(some, make) is hessian.factor(some, make) is not hessian.factor(other, make)
    assert made == [(0.1, True), (0.2, False)]


def test_a_divided_input_is_made_once_for_each_set_of_exponents() -> None:
    _, H = matrix_and_hessian(3)
    hessian, exponents = Hessian(torch.from_numpy(H), torch.float64), np.arange(len(H), dtype=np.int32) - 2
    divided = hessian.divided(exponents)
    assert divided is hessian.divided(exponents.copy()) is not hessian.divided(exponents + 1)
    power = 2.0**exponents
    np.testing.assert_array_equal(divided.H.numpy(), H / power / power[:, None])


def test_registered_functions_exist_and_other_pairs_are_refused() -> None:
    assert all(
        callable(_load(quantizer.function)) and (quantizer.errors is None or callable(_load(quantizer.errors)))
        for quantizer in quantizers()
    )
    with pytest.raises(ConfigError, match="the method gptq does not quantise to PairConfig; methods that do: kmeans, gptvq"):
        quantizer_for("gptq", PairConfig())
    with pytest.raises(ConfigError, match="SignConfig; methods that do: none"):
        quantizer_for("rtn", SignConfig)

"""A setting's size is what a tensor quantised by it packs to; --tensor-bits leaves settings of those bits, or says why there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.codecs import CodebookConfig, GridConfig, PackedTensor, PairConfig, SectionsConfig
from rwkvquant.errors import ConfigError
from rwkvquant.kernels.tiles import padded
from rwkvquant.pipeline.matrices import quantize_matrix
from rwkvquant.pipeline.settings import allowed_settings
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.recipes import Recipe, Setting
from tests.pipeline.toys import recipe_of

SHAPES = [(35, 100), (5, 32)]  # multiples of nothing; fewer codebooks than the rank
METHODS: dict[str, dict[str, Any]] = {
    "rwkvquant": {},
    "rwkvquant, more bits": {"bits": 6.0},
    "rwkvquant, no columns": {"own_options": ("by_columns=no",)},
    "paper": {"method": "paper"},
    "readme": {"method": "readme"},
    "rtn": {"method": "rtn"},
    "gptq, paper style": {"method": "gptq", "style": "paper"},
    "gptvq": {"method": "gptvq"},
    "kmeans, paper style": {"method": "kmeans", "style": "paper"},
    "gptq symmetric": {"method": "gptq", "code_bits": 5, "group_size": 32, "symmetric": True, "scale_bits": 16},
    "pairs": {"method": "gptvq", "code_bits": 2, "codebook_dim": 2},
    "kmeans pairs": {"method": "kmeans", "code_bits": 3, "codebook_dim": 2},
    "the largest rank": {"method": "kmeans", "code_bits": 2, "codebook_size": 64, "codebook_rank": 3},
}
RWKV7, VRWKV = ARCHITECTURES["rwkv7"], ARCHITECTURES["vrwkv"]
NAMES = ["blocks.0.att.key.weight", "blocks.0.att.value.weight", "blocks.1.att.w1"]


def matrix_and_hessian(shape: tuple[int, int]) -> tuple[torch.Tensor, Hessian]:
    generator = torch.Generator().manual_seed(0)
    W, X = torch.randn(shape, generator=generator), torch.randn(300, shape[1], generator=generator).double()
    return W, Hessian(X.T @ X / len(X), W.dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_stored_bytes_are_what_is_packed(options: dict[str, Any], shape: tuple[int, int]) -> None:
    recipe = recipe_of(**options)
    W, hessian = matrix_and_hessian(shape)
    assert len(set(recipe.candidates)) == len(recipe.candidates) >= 1
    settings = recipe.candidates if len(recipe.candidates) < 12 else recipe.candidates[::3]  # what one list leaves out is in another
    for setting in (*settings, *recipe.sparse_input):
        quantised = quantize_matrix(setting, replace(recipe.quantizer, refined=False), W, hessian)
        packed = PackedTensor.pack(quantised, setting.layout(shape))
        assert packed.layout == setting.layout(shape)
        assert sum(padded(array.nbytes, 64) for array in packed.arrays.values()) == setting.stored_bytes(shape), setting
        assert quantised.shape == shape and setting.codec.code_bits in range(2, 9)


def test_settings_of_methods() -> None:
    assert recipe_of(method="paper").candidates == (
        Setting("gptq", GridConfig(3, 32, scale_bits=16)),
        Setting("gptvq", CodebookConfig(3, 4, 4)),
    )
    assert recipe_of(method="readme").candidates == (
        Setting("gptq", GridConfig(3, 64, scale_bits=16)),
        Setting("gptvq", CodebookConfig(3, 2, 4)),
    )
    hybrid = recipe_of().candidates
    assert {setting.method for setting in hybrid} == {"gptq", "gptvq"}
    assert {setting.method for setting in recipe_of(method="kmeans").candidates} == {"kmeans"}
    assert {setting.codec.scale_bits for setting in recipe_of(method="gptq", style="paper").candidates} == {16}  # type: ignore[union-attr]
    assert hybrid == recipe_of(bits=4.0).candidates != recipe_of(bits=6.0).candidates  # one plan serves all low budgets


@pytest.mark.parametrize(
    "setting", [Setting("gptq", GridConfig(5)), Setting("gptvq", CodebookConfig(4, 8, 2)), Setting("kmeans", PairConfig(7))]
)
def test_json_comes_back(setting: Setting) -> None:
    assert Setting.from_json(setting.to_json()) == setting


def test_plain_is_the_same_without_feedback() -> None:
    assert Setting("gptq", GridConfig(5)).plain == Setting("rtn", GridConfig(5)) == Setting("rtn", GridConfig(5)).plain
    assert Setting("gptvq", PairConfig()).plain == Setting("kmeans", PairConfig())
    assert [Setting(method, GridConfig()).feedback for method in ("gptq", "rtn")] == [True, False]


@pytest.mark.parametrize("options", [{}, {"method": "gptq"}, {"method": "kmeans"}, {"method": "paper"}], ids=str)
def test_tensor_bits_leave_settings_of_those_bits(options: dict[str, Any]) -> None:
    recipe = recipe_of(**options, tensor_bits=("att.value=3",))
    found = allowed_settings(recipe, NAMES, RWKV7)
    assert {setting.codec.code_bits for setting in found[NAMES[1]]} == {3}
    assert found[NAMES[0]] == found[NAMES[2]] == recipe.candidates


def test_tensor_bits_reach_all_grids_whatever_the_budget() -> None:
    found = allowed_settings(recipe_of(tensor_bits=("att.value=8", "w1=2")), NAMES, RWKV7)
    assert {setting.codec for setting in found[NAMES[1]]} == {GridConfig(8, group) for group in (32, 64, 128)}
    assert {setting.kind for setting in found[NAMES[2]]} == {"uniform", "codebook"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "rtn", "code_bits": 3, "group_size": 32}, GridConfig(4, 32)),
        ({"method": "gptvq", "code_bits": 3}, CodebookConfig(4, 4)),
        ({"method": "gptvq", "code_bits": 3, "codebook_dim": 2}, PairConfig(8)),
    ],
    ids=str,
)
def test_tensor_bits_change_the_bits_of_one_setting_and_nothing_else(options: dict[str, Any], expected: object) -> None:
    found = allowed_settings(recipe_of(**options, tensor_bits=("att.value=4",)), NAMES, RWKV7)
    assert [setting.codec for setting in found[NAMES[1]]] == [expected]
    assert [setting.codec for setting in found[NAMES[0]]] == [recipe_of(**options).candidates[0].codec]


@pytest.mark.parametrize("options", [{"method": "gptvq"}, {"method": "kmeans", "code_bits": 3}, {"method": "paper"}], ids=str)
def test_tensor_bits_that_a_method_does_not_have_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"7 bits in blocks\.0\.att\.value\.weight; the method \w+ has .*3"):
        allowed_settings(recipe_of(**options, tensor_bits=("att.value=7",)), NAMES, RWKV7)


def test_matrices_whose_input_is_a_squared_relu_may_have_candidates_of_their_own() -> None:
    own = (Setting("gptvq", SectionsConfig(2.5)), Setting("gptvq", SectionsConfig(3)))
    recipe = replace(recipe_of(), sparse_input=own)
    names = [*NAMES, "blocks.1.ffn.value.weight"]
    found = allowed_settings(recipe, names, RWKV7)
    assert found[names[-1]] == own and all(found[name] == recipe.candidates for name in NAMES)
    assert Recipe.from_json(recipe.to_json()) == recipe and not recipe.one_setting
    assert "sparse_input" not in recipe_of(method="gptq").to_json()  # as in files from before

    with_bits = replace(recipe, tensor_bits=("ffn.value=3",))
    assert allowed_settings(with_bits, names, RWKV7)[names[-1]] == own
    with_bits = replace(recipe, tensor_bits=("ffn.value=2",))
    assert {setting.codec.code_bits for setting in allowed_settings(with_bits, names, RWKV7)[names[-1]]} == {2}  # none of its own
    with pytest.raises(ConfigError, match=r"8 bits in blocks\.1\.ffn\.value\.weight"):
        allowed_settings(replace(recipe, tensor_bits=("ffn.value=8",)), names, RWKV7)


def test_inputs_that_are_not_mostly_zero_have_the_candidates_of_all_unless_columns_are_asked_for() -> None:
    names, asked = ["backbone.layers.1.ffn.value.weight", "backbone.layers.1.ffn.key.weight"], recipe_of(own_options=("by_columns=yes",))
    for recipe in (recipe_of(), asked):
        found = allowed_settings(recipe, names, VRWKV)
        for_all = recipe.candidates + recipe.for_images
        assert found == dict(zip(names, (recipe.nonnegative_input or for_all, for_all), strict=True))
        assert Recipe.from_json(recipe.to_json()) == recipe


def test_pairs_are_candidates_of_models_for_images_only() -> None:
    recipe = recipe_of()
    assert {type(setting.codec) for setting in recipe.for_images} == {PairConfig}
    assert not any(isinstance(setting.codec, PairConfig) for setting in allowed_settings(recipe, NAMES, RWKV7)[NAMES[0]])
    for options in ({"choice": "codebook"}, {"style": "paper"}, {"bits": 6.0}, {"method": "gptvq"}):
        assert recipe_of(**options).for_images == ()


def test_by_columns_gives_candidates_for_every_budget_and_refuses_the_rules_of_the_paper() -> None:
    yes: dict[str, Any] = {"own_options": ("by_columns=yes",)}
    assert recipe_of().sparse_input == recipe_of(**yes).sparse_input
    assert recipe_of().nonnegative_input == () and recipe_of(**yes).nonnegative_input == recipe_of().sparse_input
    for options in ({"own_options": ("by_columns=no",)}, {"choice": "uniform"}, {"choice": "algorithm1"}, {"style": "paper"}):
        assert recipe_of(**options).own_candidates == (() if options.get("own_options") is None else recipe_of().for_images)
    bits = [setting.codec.nominal_bits for setting in recipe_of(**yes).sparse_input]
    assert bits == sorted(bits) and 2 <= bits[0] < 3.275 < bits[-1]
    assert {setting.codec.code_bits for setting in recipe_of(**yes, bits=6.0).sparse_input} == {4, 5, 6, 7, 8}
    for options in ({"choice": "uniform"}, {"choice": "algorithm1"}, {"style": "paper"}):
        with pytest.raises(ConfigError, match="by_columns goes with the style tuned and the choice error"):
            recipe_of(**yes, **options)

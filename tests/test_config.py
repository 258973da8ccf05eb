"""An error names its option; defaults follow from the method; `replace` changes only what it names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rwkvquant import CalibrationConfig, QuantizeConfig, QuantizeRequest
from rwkvquant.codecs import CodebookConfig, GridConfig, PairConfig, SectionsConfig
from rwkvquant.errors import ConfigError
from rwkvquant.recipes import METHODS, Recipe, Setting, recipe_for

BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("method", {"method": "spqr"}),
    ("style", {"style": "plain"}),
    ("choice", {"choice": "entropy"}),
    ("choice", {"method": "gptq", "choice": "uniform"}),
    ("proxy", {"proxy": "kurtosis"}),
    ("clip_search", {"clip_search": "minmax"}),
    ("device", {"device": "tpu"}),
    ("head_bits", {"head_bits": 9}),
    ("emb_bits", {"emb_bits": 1}),
    ("vector_bits", {"vector_bits": 4}),
    ("vector_codebook", {"vector_bits": 3, "vector_codebook": "median"}),
    ("vector_codebook", {"vector_codebook": "paper"}),
    ("group_size", {"method": "gptq", "code_bits": 3, "group_size": 48}),
    ("scale_bits", {"method": "gptq", "code_bits": 3, "scale_bits": 4}),
    ("codebook_size", {"method": "gptvq", "code_bits": 3, "codebook_size": 100}),
    ("codebook_rank", {"method": "gptvq", "code_bits": 3, "codebook_rank": 9}),
    ("codebook_dim", {"method": "gptvq", "code_bits": 3, "codebook_dim": 3}),
    ("code_bits", {"method": "gptq", "bits": 3.5, "code_bits": 3}),
    ("code_bits", {"code_bits": 3}),
    ("code_bits", {"method": "paper", "code_bits": 3}),
    ("code_bits", {"method": "rtn", "code_bits": 9}),
    ("code_bits", {"method": "gptvq", "code_bits": 5}),
    ("bits", {"bits": 0}),
    ("bits", {"bits": 17}),
    ("bits", {"bits": float("nan")}),
    ("bits", {"method": "paper", "bits": 3.2}),
    ("bits", {"method": "paper", "bits": 3.51}),
    ("bits", {"method": "readme", "bits": 3.275}),
    ("group_size", {"method": "gptq", "group_size": 64}),
    ("symmetric", {"method": "rtn", "bits": 4.5, "symmetric": True}),
    ("scale_bits", {"method": "gptvq", "code_bits": 3, "scale_bits": 16}),
    ("codebook_size", {"method": "gptvq", "codebook_size": 128}),
    ("codebook_rank", {"method": "rtn", "code_bits": 3, "codebook_rank": 0}),
    ("codebook_dim", {"codebook_dim": 1}),
    ("damping", {"damping": -0.1}),
    ("damping", {"damping": float("nan")}),
    ("correction", {"correction": 1.5}),
    ("seed", {"seed": -1}),
    ("act_order", {"method": "paper", "act_order": True}),
    ("act_order", {"method": "gptvq", "style": "paper", "act_order": True}),
    ("act_order", {"style": "paper", "act_order": True}),
    ("codebook_dim", {"method": "gptvq", "code_bits": 3, "style": "paper", "codebook_dim": 2}),
    ("style", {"method": "paper", "style": "tuned"}),
    ("proxy", {"proxy": "unique"}),
    ("proxy", {"method": "gptq", "proxy": "paper"}),
    ("bits", {"method": "paper", "choice": "incoherence", "bits": 3.3}),
    ("bits", {"method": "gptq", "bits": 3.5, "group_size": 64}),
    ("bits", {"method": "gptq", "bits": 9, "group_size": 64}),
    ("bits", {"method": "gptvq", "bits": 5, "codebook_rank": 4}),
    ("code_bits", {"method": "gptq", "code_bits": 3.0}),
    ("code_bits", {"method": "gptq", "code_bits": True}),
    ("bits", {"bits": "3"}),
    ("bits", {"bits": True}),
    ("seed", {"seed": 1.5}),
    ("method", {"method": None}),
    ("method", {"method": 3}),
    ("symmetric", {"method": "gptq", "code_bits": 3, "symmetric": 1}),
    ("tensor_bits", {"tensor_bits": (8,)}),
    ("tensor_bits", {"tensor_bits": None}),
    ("calibration", {"calibration": 128}),
    ("tokenizer", {"tokenizer": 5}),
]


@pytest.mark.parametrize(
    ("option", "options"), BROKEN, ids=lambda case: case if isinstance(case, str) else " ".join(map(str, case.values()))
)
def test_a_broken_rule_names_its_option(option: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"\b{option}\b"):
        recipe_for(QuantizeRequest(**options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (GridConfig, {"bits": 9}),
        (GridConfig, {"scale_bits": 4}),
        (GridConfig, {"group_size": 0}),
        (CodebookConfig, {"bits": 5}),
        (CodebookConfig, {"rank": 9}),
        (CodebookConfig, {"rank": 4, "bits": 2}),
        (CodebookConfig, {"group_rows": 3}),
        (CodebookConfig, {"group_rows": 2, "bits": 4}),
        (PairConfig, {"bits": 3}),
        (PairConfig, {"group_rows": 24}),
        (CalibrationConfig, {"rows": 0}),
        (CalibrationConfig, {"batch": 0}),
        (CalibrationConfig, {"rows": 2.0}),
        (CalibrationConfig, {"length": True}),
        (CalibrationConfig, {"path": 3}),
    ],
    ids=str,
)
def test_parts_have_their_own_rules(kind: type, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        kind(**options)


@pytest.mark.parametrize(("option", "bits"), [({"codebook_size": 64}, 4), ({"codebook_rank": 4}, 2), ({"codebook_rank": 8}, 3)])
def test_codebooks_that_cannot_be_are_refused_at_once(option: dict[str, int], bits: int) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        recipe_for(QuantizeRequest(method="gptvq", code_bits=bits, **option))


@pytest.mark.parametrize("option", [{"codebook_size": 128}, {"codebook_rank": 2}])
def test_options_of_one_dimension_do_not_go_with_two(option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="codebook_dim"):
        recipe_for(QuantizeRequest(method="gptvq", code_bits=3, codebook_dim=2, **option))


def made(**options: Any) -> Recipe:
    return recipe_for(QuantizeRequest(**options))


def usual(**options: Any) -> tuple[Any, ...]:
    recipe = made(**options)
    how = recipe.quantizer
    return recipe.chooser.rule, how.clip_search, how.act_order, how.damping, recipe.correction, recipe.fall_back


def test_defaults_follow_from_method_and_style() -> None:
    assert usual() == ("error", "hessian", True, 0.05, 0.5, True)
    assert usual(method="gptq") == usual(method="gptvq") == ("error", "hessian", True, 0.05, 0.0, True)
    assert usual(method="rtn") == ("error", "weight", True, 0.05, 0.0, True)
    assert usual(method="gptq", style="paper") == ("error", "none", False, 0.01, 0.0, False)
    assert usual(method="paper") == ("algorithm1", "none", False, 0.01, 0.0, False)
    assert usual(method="readme") == ("incoherence", "none", False, 0.01, 0.0, False)


def test_options_that_are_given_stay() -> None:
    assert usual(clip_search="weight", act_order=False, damping=0.2, correction=0.25, fall_back=False, choice="fixed") == (
        "fixed",
        "weight",
        False,
        0.2,
        0.25,
        False,
    )


def test_a_request_keeps_what_was_given_and_fills_in_nothing() -> None:
    kept = QuantizeRequest(method="paper").to_dict()
    assert {name for name, value in kept.items() if value not in (None, ())} == {"method", "calibration", "device", "seed"}


SAID: dict[str, Any] = {
    "bits": 4.0,
    "code_bits": 3,
    "method": "gptq",
    "style": "paper",
    "choice": "fixed",
    "proxy": "unique",
    "group_size": 32,
    "symmetric": True,
    "scale_bits": 16,
    "codebook_size": 256,
    "codebook_rank": 2,
    "codebook_dim": 2,
    "clip_search": "weight",
    "act_order": False,
    "damping": 0.2,
    "correction": 0.1,
    "fall_back": False,
    "head_bits": 4,
    "emb_bits": 4,
    "vector_bits": 3,
    "vector_codebook": "paper",
    "own_options": ("damping=0.2",),
    "tensor_bits": ("att=4",),
    "calibration": CalibrationConfig(rows=3),
    "tokenizer": "world",
    "adapter": "lora.pth,alpha=32",
    "forward_dtype": "bfloat16",
    "device": "cuda",
    "seed": 7,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(QuantizeRequest)])
def test_replacing_an_option_of_a_request_equals_giving_it_at_once(name: str, method: str) -> None:
    """Nothing that an earlier method filled in is left over."""
    replaced = dataclasses.replace(QuantizeRequest(method=method), **{name: SAID[name]})
    assert replaced == QuantizeRequest(**{"method": method, name: SAID[name]})
    back = dataclasses.replace(replaced, **{name: getattr(QuantizeRequest(), name), "method": "rwkvquant"})
    assert back == QuantizeRequest() and recipe_for(back) == recipe_for(QuantizeRequest())


def test_another_method_and_style_at_once() -> None:
    replaced = dataclasses.replace(QuantizeConfig(method="paper"), style="tuned", method="rwkvquant")
    assert recipe_for(replaced) == recipe_for(QuantizeRequest())


OTHER: dict[str, Any] = {
    "method": "mine",
    "candidates": (Setting("gptq", GridConfig(5)),),
    "sparse_input": (Setting("gptvq", SectionsConfig(3)),),
    "nonnegative_input": (Setting("gptvq", SectionsConfig(3)),),
    "for_images": (Setting("gptvq", SectionsConfig(3)),),
    "transform": "none",
    "text_transform": "none",
    "folded": True,
    "balanced": True,
    "tensor_bits": ("att=4",),
    "measured": True,
    "calibrated": True,
    "correction": 0.25,
    "guided": 2,
    "fall_back": True,
    "head": (),
    "embedding": (),
    "vectors": (),
    "vector_weights": "none",
    "calibration": CalibrationConfig(path="t.txt", rows=2),
    "tokenizer": "bytes",
    "adapter": "lora.pth,alpha=32",
    "forward_dtype": "bfloat16",
    "device": "cuda:1",
    "seed": 9,
}


@pytest.mark.parametrize("method", METHODS)
def test_replacing_one_field_of_a_recipe_changes_that_field_alone(method: str) -> None:
    recipe = made(method=method)
    other = OTHER | {
        "chooser": dataclasses.replace(recipe.chooser, bits=5.0),
        "quantizer": dataclasses.replace(recipe.quantizer, damping=0.3),
    }
    for field in dataclasses.fields(Recipe):
        changed = recipe
        try:
            changed = dataclasses.replace(recipe, **{field.name: other[field.name]})
        except ConfigError as error:  # such as candidates with feedback in a recipe that reads no text, or a pass 1 with a fitted transform
            reads_no_text = not recipe.calibrated
            clashes = {"column-scale": ("measured", "balanced", "transform"), "hadamard": ("folded", "transform")}.get(
                recipe.transform, ("folded",)
            )
            assert ("needs" in str(error) and reads_no_text) or ("transform" in str(error) and field.name in clashes)
        same = [each.name for each in dataclasses.fields(Recipe) if getattr(changed, each.name) == getattr(recipe, each.name)]
        assert set(same) >= {each.name for each in dataclasses.fields(Recipe)} - {field.name}
        assert Recipe.from_json(json.loads(json.dumps(changed.to_json()))) == changed


@pytest.mark.parametrize(
    "broken",
    [
        {"candidates": ()},
        {"calibrated": False},
        {"correction": 2.0},
        {"seed": None},
        {"tokenizer": None},
        {"vector_weights": "paper"},
        {"head": (Setting("rtn", GridConfig(4)),) * 2},
        {"device": "tpu"},
    ],
    ids=str,
)
def test_a_recipe_whose_parts_do_not_fit_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(made(method="gptq"), **broken)


def test_what_is_not_a_recipe_is_refused() -> None:
    kept = made().to_json()
    for broken in ({}, kept | {"head": 3}, kept | {"more": 1}, kept | {"chooser": {"rule": "error", "who": 1}}):
        with pytest.raises(ConfigError):
            Recipe.from_json(broken)


def only(**options: Any) -> object:
    (setting,) = made(**options).candidates
    return setting.codec


def test_one_setting_for_every_matrix() -> None:
    assert only(method="gptq", code_bits=3) == GridConfig(3, 64, False, 8)
    assert only(method="rtn", code_bits=4, group_size=32, symmetric=True, scale_bits=16) == GridConfig(4, 32, True, 16)
    assert only(method="gptq", code_bits=3, style="paper") == GridConfig(3, 64, False, 16)
    assert only(method="gptvq", code_bits=3) == CodebookConfig(3, 4, 0)
    assert only(method="kmeans", code_bits=2, codebook_size=512, codebook_rank=3) == CodebookConfig(2, 16, 3)
    assert only(method="gptvq", code_bits=3, codebook_dim=2) == PairConfig(6, 64)


WHOLE: list[tuple[float, dict[str, Any]]] = [
    (4, {"group_size": 64}),
    (3.0, {"group_size": 128}),
    (4, {"symmetric": True}),
    (5, {"scale_bits": 16}),
]


@pytest.mark.parametrize("method", ["gptq", "rtn"])
@pytest.mark.parametrize(("bits", "form"), WHOLE)
def test_whole_bits_with_a_group_size_are_the_bits_of_a_code(method: str, bits: float, form: dict[str, Any]) -> None:
    """As in every other tool."""
    assert made(method=method, bits=bits, **form) == made(method=method, code_bits=int(bits), **form)
    assert len(made(method=method, bits=bits).candidates) > 1  # alone they are a budget


@pytest.mark.parametrize("form", [{"codebook_size": 256}, {"codebook_rank": 4}, {"codebook_dim": 2}])
def test_whole_bits_with_a_form_of_codebooks_too(form: dict[str, Any]) -> None:
    assert made(method="gptvq", bits=3, **form) == made(method="gptvq", code_bits=3, **form)


def test_a_fraction_of_a_bit_with_a_group_size_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"^group_size goes with whole bits.*bits 3\.5 are a budget.*Try --bits 4, or leave it out$"):
        made(method="gptq", bits=3.5, group_size=64)


def test_an_option_of_other_methods_names_them() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^act_order is an option of rwkvquant, gptq, gptvq, quarot, gptaq, qronos, vptq and pcdvq; the method paper does not",
    ):
        made(method="paper", act_order=True)


def test_who_reads_text() -> None:
    assert made().calibrated and made(method="gptvq").calibrated
    assert not made(method="rtn").calibrated
    assert made(method="rtn", clip_search="hessian").calibrated
    assert made(method="rtn", correction=0.5).calibrated
    assert made(method="rtn", vector_bits=3, vector_codebook="paper").calibrated
    assert made(method="kmeans").calibrated
    assert not made(method="kmeans", style="paper").calibrated


def test_options_come_back_from_what_a_file_keeps() -> None:
    request = QuantizeRequest(
        bits=3.1, tensor_bits=("att.value=4",), calibration=CalibrationConfig(rows=5), vector_bits=3, vector_codebook="paper"
    )
    assert QuantizeRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_one_pattern_is_not_split_into_letters() -> None:
    assert QuantizeRequest.from_dict({"tensor_bits": "att.value=8"}).tensor_bits == ("att.value=8",)


def test_a_path_may_be_a_path() -> None:
    request = QuantizeRequest(calibration=Path("a.txt"), tokenizer=Path("t.json"))  # type: ignore[arg-type]
    assert (request.calibration.path, request.tokenizer) == ("a.txt", "t.json")


def test_a_misspelt_option_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"there is no option damp.*damping"):
        QuantizeRequest.from_dict({"damp": 0.1})
    with pytest.raises(ConfigError, match=r"there is no option row.*rows"):
        QuantizeRequest.from_dict({"calibration": {"row": 1}})
    with pytest.raises(ConfigError, match="options are names with values"):
        QuantizeRequest.from_dict(["bits"])  # type: ignore[arg-type]

"""Every rule for options says which option breaks it; what is not given follows from the method."""

from __future__ import annotations

from typing import Any

import pytest

from rwkvquant import CalibrationConfig, QuantizeConfig
from rwkvquant.codecs import CodebookConfig, GridConfig, PairConfig
from rwkvquant.errors import ConfigError
from rwkvquant.pipeline.settings import plain_codec

BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("method", {"method": "awq"}),
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
    ("symmetric", {"method": "rtn", "bits": 4.0, "symmetric": True}),
    ("scale_bits", {"method": "gptvq", "code_bits": 3, "scale_bits": 16}),
    ("codebook_size", {"method": "gptvq", "codebook_size": 128}),
    ("codebook_rank", {"method": "rtn", "code_bits": 3, "codebook_rank": 0}),
    ("codebook_dim", {"codebook_dim": 1}),
    ("damping", {"damping": -0.1}),
    ("damping", {"damping": float("nan")}),
    ("correction", {"correction": 1.5}),
    ("seed", {"seed": -1}),
]


@pytest.mark.parametrize(
    ("option", "options"), BROKEN, ids=lambda case: case if isinstance(case, str) else " ".join(map(str, case.values()))
)
def test_a_broken_rule_names_its_option(option: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"\b{option}\b"):
        QuantizeConfig(**options)


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
    ],
    ids=str,
)
def test_parts_have_rules_of_their_own(kind: type, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        kind(**options)


@pytest.mark.parametrize(("option", "bits"), [({"codebook_size": 64}, 4), ({"codebook_rank": 4}, 2), ({"codebook_rank": 8}, 3)])
def test_codebooks_that_cannot_be_are_refused_at_once(option: dict[str, int], bits: int) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        QuantizeConfig(method="gptvq", code_bits=bits, **option)


@pytest.mark.parametrize("option", [{"codebook_size": 128}, {"codebook_rank": 2}])
def test_options_of_one_dimension_do_not_go_with_two(option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="codebook_dim"):
        QuantizeConfig(method="gptvq", code_bits=3, codebook_dim=2, **option)


def usual(**options: Any) -> tuple[Any, ...]:
    config = QuantizeConfig(**options)
    return config.choice, config.clip_search, config.act_order, config.damping, config.correction, config.fall_back


def test_what_is_not_given_follows_from_method_and_style() -> None:
    assert usual() == ("error", "hessian", True, 0.05, 0.5, True)
    assert usual(method="gptq") == usual(method="gptvq") == (None, "hessian", True, 0.05, 0.0, True)
    assert usual(method="rtn") == (None, "weight", True, 0.05, 0.0, True)
    assert usual(method="gptq", style="paper") == (None, "none", False, 0.01, 0.0, False)
    assert usual(method="paper") == ("algorithm1", "none", False, 0.01, 0.0, False)
    assert usual(method="readme") == ("incoherence", "none", False, 0.01, 0.0, False)


def test_what_is_given_stays() -> None:
    given = {"clip_search": "weight", "act_order": False, "damping": 0.2, "correction": 0.25, "fall_back": False, "choice": "fixed"}
    config = QuantizeConfig(**given)
    assert {name: getattr(config, name) for name in given} == given


def test_plain_codecs() -> None:
    assert plain_codec(QuantizeConfig(method="gptq", code_bits=3)) == GridConfig(3, 64, False, 8)
    assert plain_codec(QuantizeConfig(method="rtn", code_bits=4, group_size=32, symmetric=True, scale_bits=16)) == GridConfig(
        4, 32, True, 16
    )
    assert plain_codec(QuantizeConfig(method="gptq", code_bits=3, style="paper")) == GridConfig(3, 64, False, 16)
    assert plain_codec(QuantizeConfig(method="gptvq", code_bits=3)) == CodebookConfig(3, 4, 0)
    assert plain_codec(QuantizeConfig(method="kmeans", code_bits=2, codebook_size=512, codebook_rank=3)) == CodebookConfig(2, 16, 3)
    assert plain_codec(QuantizeConfig(method="gptvq", code_bits=3, codebook_dim=2)) == PairConfig(6, 64)


def test_who_needs_calibration() -> None:
    assert QuantizeConfig().needs_calibration and QuantizeConfig(method="gptvq").needs_calibration
    assert not QuantizeConfig(method="rtn").needs_calibration
    assert QuantizeConfig(method="rtn", clip_search="hessian").needs_calibration
    assert QuantizeConfig(method="rtn", vector_bits=3, vector_codebook="paper").needs_calibration
    assert QuantizeConfig(method="kmeans").needs_calibration
    assert not QuantizeConfig(method="kmeans", style="paper").needs_calibration


def test_options_come_back_from_what_a_file_keeps() -> None:
    config = QuantizeConfig(
        bits=3.1, tensor_bits=("att.value=4",), calibration=CalibrationConfig(rows=5), vector_bits=3, vector_codebook="paper"
    )
    kept = config.to_dict()
    assert QuantizeConfig.from_dict(kept | {"tensor_bits": list(kept["tensor_bits"])}) == config


def test_a_misspelt_option_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"there is no option damp.*damping"):
        QuantizeConfig.from_dict({"damp": 0.1})
    with pytest.raises(ConfigError, match=r"there is no option row.*rows"):
        QuantizeConfig.from_dict({"calibration": {"row": 1}})

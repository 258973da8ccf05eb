"""Each rule gives the kinds that it promises, for hand-made results of pass 1; budgets are spent among what a rule allows."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rwkvquant.architectures import Role
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.codecs import CodebookConfig, GridConfig, PairConfig
from rwkvquant.errors import ConfigError
from rwkvquant.pipeline.choose import choose_kinds, choose_settings, paper_arithmetic
from rwkvquant.pipeline.plan_file import Candidate, Measured
from rwkvquant.recipes import Recipe, Setting
from tests.pipeline.toys import Notes, recipe_of

SHAPE = (64, 64)
COUNT = 100


def setting_loss(setting: Setting) -> float:
    """Halved by every bit, a little less for codebooks."""
    return 2.0**-setting.codec.bits * (0.9 if setting.kind == "codebook" else 1.0)


def hand_made(name: str, recipe: Recipe, weight: float = 1.0, coarse: float = 0.0, fine: float = 0.0, mu: float = 0.0) -> Measured:
    def reading(factor: float) -> dict[str, Any]:
        statistics = {"range": coarse * factor}
        return {"coarse": coarse * factor, "fine": [0.0, 0.0, fine * factor, 0.0, 0.0], "fine_signed": [0.0] * 5, "statistics": statistics}

    candidates = [Candidate(s, s.stored_bytes(SHAPE), weight * setting_loss(s), 0.0) for s in recipe.candidates]
    return Measured(name, 4096, {"paper": reading(1), "unique": reading(2), "dithered": reading(-1)}, mu, tuple(candidates))


def model_of(measured: dict[str, Measured]) -> Checkpoint:
    """As much of a checkpoint as choosing needs."""
    matrices = [SimpleNamespace(name=name, shape=SHAPE, spec=SimpleNamespace(role=Role.PROJECTION)) for name in measured]
    return cast(Checkpoint, SimpleNamespace(logical_matrices=lambda: matrices))


def random_model(recipe: Recipe, count: int = COUNT) -> dict[str, Measured]:
    draw = random.Random(0)
    return {
        f"w{i}": hand_made(f"w{i}", recipe, draw.uniform(0.1, 10), draw.uniform(0, 3), draw.uniform(0, 60), draw.uniform(4, 12))
        for i in range(count)
    }


def chosen_by(recipe: Recipe, measured: dict[str, Measured], notes: Notes | None = None) -> dict[str, Setting]:
    return choose_settings(model_of(measured), recipe, measured, {}, notes or Notes())


def true_bits(chosen: dict[str, Setting]) -> float:
    return 8 * sum(setting.stored_bytes(SHAPE) for setting in chosen.values()) / (len(chosen) * 4096)


def test_algorithm1_makes_a_tenth_uniform_the_finest_of_the_coarsest() -> None:
    recipe = recipe_of(choice="algorithm1")
    measured = random_model(recipe)
    pairs = {name: (m.proxies["paper"]["coarse"], m.proxies["paper"]["fine"][2]) for name, m in measured.items()}
    smooth = sorted(pairs, key=lambda name: pairs[name][0])[: COUNT // 2]
    expected = set(sorted(smooth, key=lambda name: pairs[name][1])[: COUNT // 10])
    assert {name for name, kind in choose_kinds(recipe.chooser, measured).items() if kind == "uniform"} == expected


def test_readings_are_those_asked_for() -> None:
    """The hand-made "dithered" is "paper" with the other sign, so the other half is smooth."""
    for proxy, smooth in (("paper", lambda p: p < 1.5), ("dithered", lambda p: p > 1.5)):
        recipe = recipe_of(choice="algorithm1", proxy=proxy)
        measured = random_model(recipe)
        uniform = [name for name, kind in choose_kinds(recipe.chooser, measured).items() if kind == "uniform"]
        assert len(uniform) == 10 and all(smooth(measured[name].proxies["paper"]["coarse"]) for name in uniform)


def test_fixed_thresholds() -> None:
    recipe = recipe_of(choice="fixed", proxy="unique")
    cases = {
        "both": (0.76, 14.9, "uniform"),
        "coarse": (0.78, 14.9, "codebook"),
        "fine": (0.76, 15.1, "codebook"),
        "neither": (3.0, 99.0, "codebook"),
    }
    measured = {name: hand_made(name, recipe, coarse=coarse, fine=fine) for name, (coarse, fine, _) in cases.items()}
    assert choose_kinds(recipe.chooser, measured) == {name: kind for name, (_, _, kind) in cases.items()}  # 1.54, 30: of twice the numbers
    for taus, names in (((1.6, 30), "both coarse"), ((1.54, 30.5), "both fine"), ((6.5, 199), "both coarse fine neither"), ((1, 199), "")):
        recipe = recipe_of(choice="fixed", proxy="unique", own_options=(f"tau_c={taus[0]}", f"tau_f={taus[1]}"))
        kinds = choose_kinds(recipe.chooser, measured)
        assert " ".join(name for name, kind in kinds.items() if kind == "uniform") == names


def test_incoherence_above_eight_is_a_codebook() -> None:
    recipe = recipe_of(choice="incoherence")
    measured = {str(mu): hand_made(str(mu), recipe, mu=mu) for mu in (7.9, 8.0, 8.1)}
    assert choose_kinds(recipe.chooser, measured) == {"7.9": "uniform", "8.0": "uniform", "8.1": "codebook"}


@pytest.mark.parametrize(("coarse_share", "fine_share", "count"), [(0.3, 0.5, 15), (1, 0.25, 25), (0.1, 1, 10), (0, 1, 0), (1, 1, 100)])
def test_percentiles_of_algorithm1_can_be_given(coarse_share: float, fine_share: float, count: int) -> None:
    recipe = recipe_of(choice="algorithm1", own_options=(f"coarse_share={coarse_share}", f"fine_share={fine_share}"))
    kinds = choose_kinds(recipe.chooser, random_model(recipe))
    assert list(kinds.values()).count("uniform") == count


def test_the_order_of_the_second_proxy_can_be_given() -> None:
    """Hand-made: P_f of K = 4 is in the place of K = 4, and 0 elsewhere, so every other K finds ties and no tensor below tau_f."""
    for order, count in ((4, 10), (2, 0), (6, 0)):
        recipe = recipe_of(choice="algorithm1", own_options=f"order={order}")
        assert list(choose_kinds(recipe.chooser, random_model(recipe)).values()).count("uniform") == count


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("selector", ["coarse", "coarse+fine", "range", "nats"])
def test_a_share_of_the_weights_is_met_at_the_budget(selector: str, share: float) -> None:
    recipe = recipe_of(choice="share", bits=3.5, own_options=(f"selector={selector}", f"sq_share={share}"))
    measured = random_model(recipe, 40)
    chosen = chosen_by(recipe, measured)
    assert [setting.kind for setting in chosen.values()].count("uniform") == 40 * share
    assert 3.35 < true_bits(chosen) <= 3.5


@pytest.mark.parametrize(("options", "bits"), [({"choice": "share"}, 4), ({"choice": "share", "own_options": "wide=no"}, 3), ({}, 3)])
def test_a_share_has_codebooks_as_wide_as_its_grids(options: dict[str, Any], bits: int) -> None:
    assert max(setting.codec.bits for setting in recipe_of(**options).candidates if setting.kind == "codebook") == bits


@pytest.mark.parametrize(("said", "everywhere", "images"), [((), 0, 4), ("pairs=yes", 4, 0), ("pairs=no", 0, 0)])
def test_pairs_are_candidates_of_language_models_if_they_are_asked_for(said: Any, everywhere: int, images: int) -> None:
    recipe = recipe_of(own_options=said)
    for settings, count in ((recipe.candidates, everywhere), (recipe.for_images, images)):
        assert sum(isinstance(setting.codec, PairConfig) for setting in settings) == count


def test_other_choices_and_larger_budgets_have_no_pairs() -> None:
    with pytest.raises(ConfigError, match="pairs goes with the style tuned and the choice error"):
        recipe_of(choice="algorithm1", own_options="pairs=yes")
    with pytest.raises(ConfigError, match=r"pairs goes with budgets up to 4\.5 bits"):
        recipe_of(bits=5, own_options="pairs=yes")


def test_grids_go_where_they_lose_least_more_than_codebooks() -> None:
    """Hand-made: losses of both kinds are in proportion to a weight, so the tensors of least weight get grids."""
    recipe = recipe_of(choice="share", own_options=("selector=nats", "sq_share=0.3"))
    measured = random_model(recipe, 40)
    grids = {name for name, kind in choose_kinds(recipe.chooser, measured).items() if kind == "uniform"}
    loss = {name: one.candidates[0].loss for name, one in measured.items()}
    assert grids == set(sorted(loss, key=loss.__getitem__)[:12])


@pytest.mark.parametrize("measure", ["mse", "kl"])
def test_what_was_measured_later_decides_where_it_is_known(measure: str) -> None:
    recipe = recipe_of(choice="share", own_options=(f"selector={measure}", "sq_share=0.5"))
    measured = {
        name: replace(one, candidates=tuple(replace(c, **{measure: value if c.setting.kind == "uniform" else 1.0}) for c in one.candidates))
        for (name, one), value in zip(random_model(recipe, 4).items(), [9.0, 2.0, 1.0, 3.0], strict=True)
    }
    assert [name for name, kind in choose_kinds(recipe.chooser, measured).items() if kind == "uniform"] == ["w1", "w2"]


@pytest.mark.parametrize("choice", ["uniform", "codebook"])
def test_one_kind_for_all(choice: str) -> None:
    recipe = recipe_of(choice=choice, bits=4.0)
    assert {setting.kind for setting in chosen_by(recipe, random_model(recipe, 12)).values()} == {choice}


@pytest.mark.parametrize("bits", [2.8, 3.275, 3.6])
@pytest.mark.parametrize("choice", ["error", "algorithm1", "fixed", "incoherence"])
def test_budgets_are_met_by_the_kinds_of_every_rule(choice: str, bits: float) -> None:
    recipe = recipe_of(choice=choice, bits=bits)
    measured = random_model(recipe, 30)
    kinds, chosen = choose_kinds(recipe.chooser, measured), chosen_by(recipe, measured)
    assert bits - 0.15 < true_bits(chosen) <= bits
    for name, kind in kinds.items():
        assert chosen[name].kind == kind


def test_errors_decide_freely_and_so_lose_least() -> None:
    losses = {}
    for choice in ("error", "uniform", "codebook", "algorithm1", "incoherence"):
        recipe = recipe_of(choice=choice, bits=3.5)
        measured = random_model(recipe, 30)
        chosen = chosen_by(recipe, measured)
        losses[choice] = sum(c.loss for name, m in measured.items() for c in m.candidates if c.setting == chosen[name])
    assert min(losses, key=losses.__getitem__) == "error"


def test_what_matters_more_gets_more_bits() -> None:
    recipe = recipe_of(bits=3.5)
    measured = {name: hand_made(name, recipe, weight) for name, weight in (("little", 0.01), ("some", 1.0), ("much", 100.0))}
    chosen = chosen_by(recipe, measured)
    sizes = [chosen[name].stored_bytes(SHAPE) for name in ("little", "some", "much")]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


def test_bits_out_of_reach_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes()
    recipe = recipe_of(choice="uniform", bits=1.5)
    with pytest.raises(ConfigError, match="smallest reachable"):
        chosen_by(recipe, random_model(recipe, 3))
    recipe = recipe_of(choice="uniform", tensor_bits=("*=5",))
    measured = {name: only_bits(m, 5) for name, m in random_model(recipe, 3).items()}
    reached = true_bits(chosen_by(recipe, measured, notes))
    assert f"cannot reach 3.275 bits per weight; using the smallest reachable, {reached:.3f}" in notes.notes[0]


def only_bits(measured: Measured, bits: int) -> Measured:
    candidates = tuple(c for c in measured.candidates if c.setting.codec.bits == bits)
    return Measured(measured.name, measured.weights, measured.proxies, measured.incoherence, candidates)


def test_a_kind_that_tensor_bits_leave_no_candidate_of_takes_the_other() -> None:
    recipe = recipe_of(choice="codebook", bits=8.0, tensor_bits=("w0=7",))
    measured = random_model(recipe, 3)
    measured["w0"] = only_bits(measured["w0"], 7)
    chosen = chosen_by(recipe, measured)
    assert (chosen["w0"].kind, chosen["w0"].codec.bits) == ("uniform", 7) and chosen["w1"].kind == "codebook"


def test_the_papers_arithmetic_of_a_tenth_is_3_275() -> None:
    recipe, notes = recipe_of(method="paper"), Notes()
    chosen = chosen_by(recipe, random_model(recipe), notes)
    assert [setting.codec for setting in chosen.values()].count(GridConfig(3, 32, scale_bits=16)) == 10
    assert [setting.codec for setting in chosen.values()].count(CodebookConfig(3, 4, 4)) == 90
    assert "10.0 % SQ at 3.5 + 90.0 % VQ at 3.25 = 3.275 bits" in notes.notes[0]


@pytest.mark.parametrize("bits", [3.25, 3.26, 3.275, 3.3, 3.375, 3.4, 3.45, 3.5])
def test_the_papers_own_count_follows_bits(bits: float) -> None:
    recipe, notes = recipe_of(method="paper", bits=bits), Notes()
    chosen_by(recipe, random_model(recipe), notes)
    assert f"= {bits:.3f} bits" in notes.notes[0]


def test_readme_chooses_by_incoherence_among_its_two() -> None:
    recipe, notes = recipe_of(method="readme"), Notes()
    measured = random_model(recipe)
    chosen = chosen_by(recipe, measured, notes)
    for name, setting in chosen.items():
        expected = CodebookConfig(3, 2, 4) if measured[name].incoherence > 8 else GridConfig(3, 64, scale_bits=16)
        assert setting.codec == expected
    assert "SQ at 3.25" in notes.notes[0] and "VQ at 3.5" in notes.notes[0]


def test_arithmetic_of_one_kind_alone() -> None:
    assert "100.0 % SQ at 3.5 = 3.500 bits" in paper_arithmetic({"a": Setting("gptq", GridConfig(3, 32, scale_bits=16))})

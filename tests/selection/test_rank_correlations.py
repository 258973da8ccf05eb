"""The rank correlations of benchmarks/selector_study.py are those of the textbooks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks/selector_study.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("selector_study", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_values_share_the_mean_of_their_ranks(script: ModuleType) -> None:
    assert script.ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_correlations_by_hand(script: ModuleType) -> None:
    """Ranks 1 2 3 4 5 and 2 1 4 3 5: sum d^2 = 4, so rho = 1 - 6 * 4 / (5 * 24) = 0.8; 8 of 10 pairs agree, so tau = 0.6."""
    x, y = np.array([1.0, 10, 100, 1000, 10000]), np.array([0.2, 0.1, 0.4, 0.3, 0.5])
    assert script.spearman(x, y) == pytest.approx(0.8) and script.kendall(x, y) == pytest.approx(0.6)
    assert script.spearman(x, -x) == pytest.approx(-1) and script.kendall(x, -x) == pytest.approx(-1)


def test_ties_in_kendalls_tau(script: ModuleType) -> None:
    """Three pairs, one tied in x: two agree, so tau-b = 2 / sqrt(2 * 3)."""
    assert script.kendall(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(2 / np.sqrt(6))
    assert script.kendall(np.ones(3), np.arange(3.0)) == script.spearman(np.ones(3), np.arange(3.0)) == 0.0


def test_the_interval_holds_the_value(script: ModuleType) -> None:
    x = np.arange(40.0)
    found = script.correlation(x, x + np.random.default_rng(0).normal(0, 10, 40))
    assert found["interval"][0] < found["spearman"] < found["interval"][1] <= 1

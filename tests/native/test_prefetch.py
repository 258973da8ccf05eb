"""How far ahead memory is asked for: it is measured on the first tokens of a large model, and changes no bit of the results."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.errors import ConfigError
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.session import load
from tests.runtime.test_engine import SIZES, random_weights

LARGE = 500 << 20  # bytes a token
TOKENS = 2 + 7 * 11  # the first two, then seven in each way
Way = tuple[int, int]  # far and near, in bytes
names = (f"test {number}" for number in itertools.count())  # of bodies: what is measured is kept for each body


def measure(times: dict[Way, float], noise: float = 0.0, bytes_a_token: int = LARGE, isa: str | None = None) -> tuple[Way, str, list[Way]]:
    """What is chosen for one kind of matrix whose products take `times[way]`, where from, and the ways that were tried."""
    rng = np.random.default_rng(0)
    prefetch = _native.Prefetch(isa or next(names), ["uniform 3"], [bytes_a_token])
    tried = []
    for _ in range(TOKENS):
        tried += prefetch.ahead
        disturbed = 20 * (rng.random() < noise)
        prefetch.learn([int(1e6 * (times.get(tried[-1], 1.0) + noise * rng.random() + disturbed))])
    return prefetch.ahead[0], prefetch.source, tried


USUAL = _native.Prefetch("usual", ["uniform 3"], [0]).ahead[0]
WAYS = {*((far, 0) for far in (0, 1024, 2048, 4096, 8192, 16384)), (4096, 1024), (8192, 1024), (8192, 3072), (16384, 2048)}
OTHERS = sorted(WAYS - {USUAL})


@pytest.mark.parametrize("best", OTHERS)
def test_the_fastest_way_is_chosen(best: Way) -> None:
    chosen, source, tried = measure({best: 0.9})
    assert (chosen, source) == (best, "measured")
    assert set(tried) == WAYS


@pytest.mark.parametrize("best", OTHERS)
def test_a_noisy_machine_does_not_change_the_choice(best: Way) -> None:
    assert measure({best: 0.8}, noise=0.1)[0] == best


def test_the_way_of_the_table_stays_unless_another_is_clearly_better() -> None:
    assert measure({})[0] == USUAL
    assert measure(dict.fromkeys(OTHERS, 0.98))[0] == USUAL
    assert measure({}, noise=0.02)[0] == USUAL


def test_a_model_that_fits_into_caches_is_not_measured() -> None:
    chosen, source, tried = measure({OTHERS[0]: 0.5}, bytes_a_token=8 << 20)
    assert (chosen, source) == (USUAL, "table") and set(tried) == {USUAL}


def test_a_kind_with_little_to_read_is_not_measured_and_kinds_are_chosen_one_by_one() -> None:
    prefetch = _native.Prefetch(next(names), ["uniform 3", "uniform 4", "dense"], [LARGE, LARGE, 1 << 20])
    usual = prefetch.ahead[2]
    for _ in range(TOKENS):
        three, four, _ = prefetch.ahead
        prefetch.learn([800 + 100 * (three != OTHERS[0]), 800 + 100 * (four != OTHERS[1]), 100])
        assert prefetch.ahead[2] == usual
    assert prefetch.ahead == [OTHERS[0], OTHERS[1], usual]


def test_what_was_measured_is_kept_for_the_process() -> None:
    isa = next(names)
    assert measure({OTHERS[0]: 0.9}, isa=isa)[0] == OTHERS[0]
    chosen, source, tried = measure({}, isa=isa)
    assert (chosen, source) == (OTHERS[0], "measured") and set(tried) == {OTHERS[0]}


@pytest.mark.parametrize("name", SIZES)
def test_distances_change_no_bit(tmp_path: Path, name: str) -> None:
    weights = random_weights(tmp_path, name)
    state = ARCHITECTURES[weights.arch].zero_state(weights.dims)
    results = []
    for prefetch in ("table", "measured", (0, 0), (1024, 0), (4160, 0), (1 << 20, 0), (8192, 1024), (64, 1 << 20)):
        (logits,), after = NativeEngine(weights, 2, prefetch=prefetch).read([[5]], state, "all")
        results.append([part.tobytes() for part in (logits, *after.arrays)])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("asked", "source", "way"),
    [("table", "table", USUAL), ("0", "fixed", (0, 0)), ("3072", "fixed", (3072, 0)), ("8192,64", "fixed", (8192, 64))],
)
def test_the_environment_can_fix_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, source: str, way: Way) -> None:
    write_random_model(tmp_path / "model", *SIZES["rwkv7 heads of 16"])
    monkeypatch.setenv("RWKVQUANT_PREFETCH", asked)
    tuning = load(tmp_path / "model", threads=1).tuning
    assert tuning is not None and tuning.prefetch_source == source and tuning.prefetch["uniform 6"] == way
    distances = f"{way[0]} and {way[1]}" if way[1] else f"{way[0]}"
    assert f"uniform 6: {distances} bytes" in str(tuning) and f"({source})" in str(tuning)


@pytest.mark.parametrize("asked", ["near", "-1", "1.5", "1048577", "", "1024,", "1024,near", "1,2,3", "64,1048577"])
def test_a_distance_that_is_not_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    write_random_model(tmp_path / "model", *SIZES["rwkv7 heads of 16"])
    monkeypatch.setenv("RWKVQUANT_PREFETCH", asked)
    with pytest.raises(
        ConfigError,
        match=f"RWKVQUANT_PREFETCH must be measured, table, or 0 to 1048576 bytes, or two such numbers with a comma; got {asked}",
    ):
        load(tmp_path / "model")


def test_only_codecs_that_read_ahead_are_named(tmp_path: Path) -> None:
    """Products that skip columns ask for the columns of their list instead."""
    tuning = NativeEngine(random_weights(tmp_path, "rwkv7 heads of 64"), 1).tuning
    assert tuning.prefetch and not {"columnwise", "sections"} & {kind.split()[0] for kind in tuning.prefetch}

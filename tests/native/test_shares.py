"""Which threads work, and the share of each: it follows the speed of the threads, and changes no bit of the results.

The rules are tested with simulated cores, so that no test depends on the speed of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant import _native
from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.errors import ConfigError
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.session import load
from tests.runtime.test_engine import SIZES, random_weights

TOKEN = 1e6  # ticks of a token on one core of speed 1
PAUSE = 1e6  # how long a disturbed core is away each time


class Cores:
    """Cores of given speeds. A disturbed core is away for a while in every token, so threads wait for it at a barrier."""

    def __init__(self, speeds: Sequence[float], noise: float = 0.0) -> None:
        self.speeds, self.disturbed, self.noise = list(speeds), set[int](), noise
        self.rng = np.random.default_rng(0)
        self.shares = _native.Shares(len(speeds))

    def tokens(self, count: int) -> float:
        """The mean time of a token."""
        times = [self.token() for _ in range(count)]
        return sum(times) / count

    def token(self) -> float:
        team, values = self.shares.team, self.shares.values
        busy = [TOKEN * values[t] / self.speeds[t] * (1 + self.noise * self.rng.standard_normal()) for t in team]
        away = PAUSE if self.disturbed & set(team) else 0.0
        time = max(busy) + away
        self.shares.learn([int(b + away / 2 * (t in self.disturbed)) for t, b in zip(team, busy, strict=True)], int(time))
        return time


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_that_are_equally_fast_keep_equal_shares(threads: int) -> None:
    cores = Cores([1.0] * threads, noise=0.03)
    for _ in range(500):
        cores.token()
        assert cores.shares.values == [1 / threads] * threads


@pytest.mark.parametrize("speeds", [[1.0, 0.5], [0.6, 1.0], [1.0, 1.0, 1.0, 1.0, 0.4, 0.4, 0.4, 0.4]])
def test_shares_follow_the_speed_of_each_thread(speeds: list[float]) -> None:
    cores = Cores(speeds)
    cores.tokens(20)
    assert cores.tokens(20) < 1.15 * TOKEN / sum(speeds)
    assert np.allclose(cores.shares.values, np.array(speeds) / sum(speeds), rtol=0.1)


def test_shares_are_equal_again_after_a_core_was_slow() -> None:
    cores = Cores([1.0, 0.4])
    cores.tokens(40)
    cores.speeds[1] = 1.0
    cores.tokens(40)
    assert cores.shares.values == [0.5, 0.5]


@pytest.mark.parametrize("threads", [2, 4, 8])
def test_a_disturbed_thread_is_left_out_and_comes_back(threads: int) -> None:
    cores = Cores([1.0] * threads, noise=0.02)
    cores.tokens(50)
    cores.disturbed = {threads - 1}
    cores.tokens(50)
    assert cores.shares.team == list(range(threads - 1)) and cores.shares.values[-1] == 0
    assert cores.tokens(1000) < 1.08 * TOKEN / (threads - 1)  # trials of the disturbed thread cost little
    cores.disturbed = set()
    cores.tokens(200)
    assert cores.shares.team == list(range(threads))
    assert np.allclose(cores.shares.values, 1 / threads, rtol=0.1)


def test_the_thread_of_the_caller_is_never_left_out() -> None:
    cores = Cores([1.0, 1.0])
    cores.disturbed = {0}
    for _ in range(300):
        cores.token()
        assert cores.shares.team[0] == 0


Read = Callable[[NativeEngine], list[bytes]]


@pytest.fixture(scope="module", params=SIZES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[NativeEngine, Read, list[bytes]]:
    """An engine with four threads, what is read with it, and the bits of one thread."""
    weights = random_weights(tmp_path_factory.mktemp("shares"), request.param)
    state = ARCHITECTURES[weights.arch].zero_state(weights.dims)

    def read(engine: NativeEngine) -> list[bytes]:
        results = [engine.read([tokens], state, "all") for tokens in ([5], [1, 2], list(range(9)))]
        return [part.tobytes() for (logits,), after in results for part in (logits, *after.arrays)]

    return NativeEngine(weights, 4), read, read(NativeEngine(weights, 1))


@settings(max_examples=30, deadline=None)
@given(shares=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4))
def test_shares_change_no_bit(engine: tuple[NativeEngine, Read, list[bytes]], shares: list[float]) -> None:
    four, read, want = engine
    assert four.threads == 4, "the system gives fewer threads than this test needs"
    four.fix_shares(shares)
    assert sum(four.shares) == pytest.approx(1)
    assert read(four) == want


def test_the_environment_can_ask_for_equal_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch, dims = SIZES["rwkv7 heads of 16"]
    write_random_model(tmp_path / "model", arch, dims)
    monkeypatch.setenv("RWKVQUANT_SHARES", "equal")
    model = load(tmp_path / "model", threads=2)
    for token in range(100):
        model.forward([token])
    engine = model._engine
    assert isinstance(engine, NativeEngine) and engine.shares == [1 / engine.threads] * engine.threads
    monkeypatch.setenv("RWKVQUANT_SHARES", "fair")
    with pytest.raises(ConfigError, match="RWKVQUANT_SHARES must be one of measured, equal; got fair"):
        load(tmp_path / "model")


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")], [1.0, 1.0, 1.0]])
def test_shares_that_are_not_one_number_for_each_thread_are_refused(tmp_path: Path, shares: list[float]) -> None:
    engine = NativeEngine(random_weights(tmp_path, "rwkv7 heads of 16"), 2)
    with pytest.raises(ValueError, match="shares: must be a number above 0 for each thread, or none"):
        engine.fix_shares(shares)

"""A bar tells what is known: no time left without a total, none from the first item alone, and never more finished than there is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rwkvquant.cli import progress as shown
from rwkvquant.cli.progress import Counter, LiveProgress, Pace, PlainProgress
from rwkvquant.pipeline.progress import TensorReport

REPORT = TensorReport("blocks.0.att.key.weight", "gptq", "uniform.b3", 3.25, 1e-3, 1000, 200)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rwkvquant.cli.progress.time.monotonic", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, soft_wrap=True)
    monkeypatch.setattr(shown, "stderr", console)
    return console


def drawn(progress: LiveProgress | Counter) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(progress.bar.get_renderable())
    return captured.get()


def test_the_time_left_is_known_from_the_second_item_on(clock: Clock) -> None:
    pace, said = Pace(4), []
    for _ in range(4):
        clock.now += 60
        pace.advance()
        said.append(pace.left)
    assert said == ["", "about 2:00 left", "about 1:00 left", ""] and pace.count == "4/4"


def test_long_times_have_hours(clock: Clock) -> None:
    pace = Pace(1000)
    clock.now += 100
    pace.advance(9)
    pace.advance(10)
    assert pace.left == "about 2:45:00 left"


def test_without_a_total_nothing_is_left_and_nothing_is_counted(clock: Clock) -> None:
    pace = Pace()
    for _ in range(5):
        clock.now += 1
        pace.advance()
        assert (pace.count, pace.left) == ("", "")


def test_the_time_left_counts_down_until_it_is_used_up(clock: Clock) -> None:
    pace, said = Pace(4), []
    for _ in range(2):
        clock.now += 60
        pace.advance()
    for _ in range(3):
        clock.now += 50
        said.append(pace.left)
    assert said == ["about 1:10 left", "about 0:20 left", ""]


def test_what_was_finished_before_takes_no_time(clock: Clock) -> None:
    pace = Pace(10, first=6)
    for _ in range(2):
        clock.now += 60
        pace.advance()
    assert (pace.count, pace.left) == ("8/10", "about 2:00 left")


def test_plain_lines_count_tensors_and_take_the_time_from_blocks(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = PlainProgress()
    progress.begin(4)
    progress.block(0, 4)
    for block in range(4):
        clock.now += 60
        progress.tensor(REPORT)
        progress.block(block + 1, 4)
    counts = [line.partition("]")[0].strip("[ ") for line in capsys.readouterr().err.splitlines()]
    assert counts == ["1/4", "2/4", "3/4, about 1:00 left", "4/4"]


def test_the_live_bar_pulses_until_it_knows(clock: Clock, terminal: Console) -> None:
    progress = LiveProgress()
    try:
        progress.phase("choosing bits")
        progress.step()
        progress.step()
        assert "choosing bits" in drawn(progress) and "left" not in drawn(progress) and "/" not in drawn(progress)
        progress.phase("measuring", steps=4)
        clock.now += 10
        progress.step()
        assert "1/4" in drawn(progress) and "left" not in drawn(progress)
        clock.now += 10
        progress.step()
        assert "2/4" in drawn(progress) and "about 0:20 left" in drawn(progress)
        progress.phase("reading")
        assert "/" not in drawn(progress) and "left" not in drawn(progress)
        progress.begin(10)  # the time before counts for nothing: those were other things
        progress.phase("block 1 of 2: quantising", steps=7)
        progress.block(0, 4)
        for block in range(2):
            clock.now += 5
            progress.tensor(REPORT)
            progress.step()
            assert "left" not in drawn(progress)
            progress.block(block + 1, 4)
        assert "2/10" in drawn(progress) and "about 0:10 left" in drawn(progress)
    finally:
        progress.end()


def test_a_counter_tells_a_time_from_its_second_batch_on(clock: Clock, terminal: Console) -> None:
    counter = Counter("windows")
    with counter as progress:
        assert "/" not in drawn(counter) and "left" not in drawn(counter)
        clock.now += 8
        progress(8, 32)
        assert "8/32" in drawn(counter) and "left" not in drawn(counter)
        clock.now += 8
        progress(16, 32)
        assert "16/32" in drawn(counter) and "about 0:16 left" in drawn(counter)

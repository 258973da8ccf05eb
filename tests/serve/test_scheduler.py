"""Answers that are written side by side, aborted, parked and cached are those of a model that has nothing else to do."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from rwkvquant import Model, SamplingConfig
from rwkvquant.errors import FormatError
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.jobs import Begin, Job, Piece
from rwkvquant.serve.prefixes import Prefixes
from rwkvquant.serve.scheduler import QUANTUM, Scheduler

TEXT = "It was a dark night, and the old man walked down to the river with a lamp in his hand. " * 3


@contextmanager
def scheduling(model: Model, slots: int = 3, cache: int = 1 << 30, **options: Any) -> Iterator[Scheduler]:
    scheduler = Scheduler(model, slots, Prefixes(cache), lambda pieces: [deliver(piece) for deliver, piece in pieces], **options)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()
        assert not scheduler.alive and scheduler.load == (0, 0)


class Reader:
    """Collects one answer."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        self.seen: list[Piece] = []

    def take(self) -> Piece:
        self.seen.append(self.pieces.get(timeout=60))
        return self.seen[-1]

    def answer(self) -> tuple[str, str | None]:
        """Text and reason; raises what ended it."""
        while True:
            piece = self.take()
            if piece.error:
                raise piece.error
            if piece.finish:
                return "".join(each.text for each in self.seen), piece.finish


def job(model: Model, prompt: str, max_tokens: int = 12, seed: int = 1, temperature: float = 1.0, **options: Any) -> Job:
    tokens = (0, *model.tokenizer.encode(prompt))
    return Job(tokens, max_tokens, SamplingConfig(temperature=temperature, top_p=0.9, seed=seed), **options)


def ask(scheduler: Scheduler, *jobs: Job, alike: int = 1) -> list[Reader]:
    readers = [Reader() for _ in jobs]
    scheduler.submit([(each, reader.pieces.put, None) for each, reader in zip(jobs, readers, strict=True)], alike)
    return readers


def alone(model: Model, asked: Job) -> tuple[str, str]:
    result = model.generate(asked.tokens[1:], asked.max_tokens, asked.sampling, stop=asked.stop)
    return result.text, result.finish_reason


def test_answers_side_by_side_are_those_of_a_model_alone(model: Model) -> None:
    """More than there are slots, of any length, with stop strings, cancelled now and then; twice, so that prefixes are cached."""
    rng = random.Random(0)
    jobs = [
        job(
            model,
            TEXT[: rng.randrange(1, len(TEXT))],
            rng.randrange(1, 20),
            seed,
            rng.choice([0, 0.8, 1.5]),
            stop=rng.choice([(), ("e", "he"), (". ",)]),
        )
        for seed in range(12)
    ]
    expected = [alone(model, each) for each in jobs]
    with scheduling(model) as scheduler:
        for _ in range(2):
            readers = []
            for index, each in enumerate(jobs):
                if index % 3 == 0:  # one that leaves, at some time
                    gone = Reader()
                    ticket = scheduler.submit([(job(model, TEXT[5 * index :], 500, 99), gone.pieces.put, None)])
                    if index % 2:
                        gone.take()
                    scheduler.cancel(ticket)
                readers += ask(scheduler, each)
            assert [reader.answer() for reader in readers] == expected
        assert scheduler.counts.cached_tokens > 0


def test_a_cached_prefix_gives_the_bits_of_a_fresh_prompt(model: Model) -> None:
    """The reported log-probabilities are equal, not only close: from a whole prompt, from its middle, and after an answer."""
    with scheduling(model) as scheduler, scheduling(model, cache=0) as fresh:
        first = job(model, TEXT, 20, temperature=0, top_logprobs=3)
        (reader,) = ask(scheduler, first)
        text, _ = reader.answer()
        for prompt in (TEXT, TEXT + text[:-1], TEXT + text + " And then", TEXT[:100] + "another end", TEXT[:100] + "a third end"):
            asked = job(model, prompt, 6, temperature=0, top_logprobs=3)
            (cached,), (new,) = ask(scheduler, asked), ask(fresh, asked)
            assert cached.answer() == new.answer()
            assert [p.scored for p in cached.seen] == [p.scored for p in new.seen]
            assert new.seen[0].cached == 0
        assert cached.seen[0].cached >= 20


def test_the_same_prompt_again_is_answered_without_reading(model: Model) -> None:
    with scheduling(model) as scheduler:
        asked = job(model, TEXT, 1)
        (reader,) = ask(scheduler, asked)
        reader.answer()
        steps = scheduler.counts.steps
        (again,) = ask(scheduler, asked)
        assert again.answer() == ("".join(p.text for p in reader.seen), "length")
        assert scheduler.counts.steps == steps and again.seen[0].cached == len(asked.tokens)


def test_several_answers_to_one_prompt_read_it_once_and_are_those_of_their_seeds(model: Model) -> None:
    jobs = [job(model, TEXT, 8, seed) for seed in range(5)]
    for cache in (0, 1 << 30):
        with scheduling(model, slots=2, cache=cache) as scheduler:
            readers = ask(scheduler, *jobs, alike=5)
            assert [reader.answer() for reader in readers] == [alone(model, each) for each in jobs]
            assert scheduler.counts.prompt_tokens == len(jobs[0].tokens)


def test_a_long_answer_does_not_keep_others_out(model: Model) -> None:
    """One slot: a newcomer is answered before the long answer ends, which goes on to the same text."""
    long, short = job(model, "Once", 3 * QUANTUM, temperature=0), job(model, "The sea", 5)
    with scheduling(model, slots=1) as scheduler:
        (first,) = ask(scheduler, long)
        first.take()
        (second,) = ask(scheduler, short)
        assert second.answer() == alone(model, short)
        assert not any(piece.finish for piece in first.seen)
        assert first.answer() == alone(model, long)
        assert scheduler.counts.parked >= 1


def test_a_long_prompt_is_read_in_slices_between_the_steps_of_others(model: Model) -> None:
    with scheduling(model) as scheduler:
        (writer,) = ask(scheduler, job(model, "Once", 300, temperature=0))
        writer.take()
        (reader,) = ask(scheduler, job(model, TEXT * 4, 1))
        reader.answer()
        between = writer.pieces.qsize()
        assert between >= 5
        writer.answer()


def test_one_that_leaves_frees_its_slot(model: Model) -> None:
    with scheduling(model, slots=1) as scheduler:
        gone, ticket = Reader(), None
        ticket = scheduler.submit([(job(model, "Once", 100_000), gone.pieces.put, None)])
        gone.take()
        scheduler.cancel(ticket)
        (next_one,) = ask(scheduler, job(model, "Then", 2))
        next_one.answer()
        assert scheduler.counts.parked == 0 and scheduler.counts.written_tokens < 100_000


def test_too_many_that_wait_are_refused_and_late_ones_fail(model: Model) -> None:
    with scheduling(model, slots=1, max_waiting=2) as scheduler:
        readers = ask(scheduler, job(model, "Once", 400), job(model, "Then", 1, deadline=0.0))
        with pytest.raises(ApiError, match="at most 2"):
            ask(scheduler, job(model, "a"), job(model, "b"), job(model, "c"))
        with pytest.raises(ApiError, match="took longer") as late:
            readers[1].answer()
        assert late.value.status == 504
        readers[0].answer()


def test_an_error_in_a_step_ends_the_answers_and_not_the_server(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the mapped file becomes shorter."""
    with scheduling(model) as scheduler:
        forward, broken = scheduler._slots.forward, threading.Event()
        broken.set()

        def failing(*arguments: Any) -> Any:
            if broken.is_set():
                raise FormatError("the file became shorter")
            return forward(*arguments)

        monkeypatch.setattr(scheduler._slots, "forward", failing)
        (reader,) = ask(scheduler, job(model, "Once", 5))
        with pytest.raises(ApiError, match="shorter") as raised:
            reader.answer()
        assert raised.value.status == 500
        broken.clear()
        (again,) = ask(scheduler, job(model, "Once", 5))
        assert again.answer() == alone(model, job(model, "Once", 5))


def test_logits_that_are_not_finite_end_one_answer_alone(model: Model) -> None:
    bad = model.initial_state()
    for array in bad.recurrent.arrays:
        array[:] = np.nan
    with scheduling(model) as scheduler:
        broken, well = ask(scheduler, job(model, "Once", 5, begin=Begin("bad", bad)), job(model, "Once", 5))
        with pytest.raises(Exception, match="finite"):
            broken.answer()
        assert well.answer() == alone(model, job(model, "Once", 5))


def test_a_closed_scheduler_takes_no_more_and_ends_what_runs(model: Model) -> None:
    with scheduling(model) as scheduler:
        (reader,) = ask(scheduler, job(model, "Once", 100_000))
        reader.take()
    with pytest.raises(ApiError, match="stopping"):
        reader.answer()
    with pytest.raises(ApiError, match="stopping"):
        ask(scheduler, job(model, "Once", 1))

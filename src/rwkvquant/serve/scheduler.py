"""The thread that owns the model. Answers grow side by side, one token each a step (continuous batching).

Each step, in this order:

1. Who left is let go: its slot is free at once.
2. Newcomers get free slots, the first that came first. A prompt that begins as a cached text is read from there on. If others wait and no
   slot is free, the answer that had its slot for the longest time, at least `QUANTUM` steps, is parked: its state is copied, which costs
   less than a step, and it waits again. So a long answer never keeps others out.
3. The model reads: the last token of each answer, and a slice of each prompt. So a long prompt does not stop the answers of others.
4. Each answer gets its next token, and what is new is delivered.
5. States are copied: into the cache, and where answers part. This may take longer than a step, so it comes after the delivery.

Logits do not depend on what is read side by side, or on how a prompt is cut (docs/architecture.md). So an answer is the same bits whether
it is alone or not, and whether its prompt was cached or not.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field

from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.runtime.session import Logits, Model
from rwkvquant.runtime.states.files import State
from rwkvquant.serve.choosing import Constraint
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.jobs import Deliver, Job, Piece
from rwkvquant.serve.prefixes import Prefixes
from rwkvquant.serve.sequence import Fork, Sequence

QUANTUM = 64  # steps that an answer keeps its slot while others wait
SLICE = 32  # tokens of prompts that are read in a step in which others write: more would make these wait
LEAST = 16  # shorter prefixes are not worth a state
INTERVAL = 512  # tokens of a long prompt after which a state is kept, because another one may begin in the same way

Post = Callable[[list[tuple[Deliver, Piece]]], None]


@dataclass
class Counts:
    """Since the start, for /metrics."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    steps: int = 0
    parked: int = 0
    step_seconds: float = 0.0


@dataclass(eq=False)
class Ticket:
    """One request: its answers are cancelled together."""

    sequences: list[Sequence] = field(default_factory=list)


class Scheduler:
    """`post` gets what is new after each step, in the scheduler's thread."""

    def __init__(self, model: Model, slots: int, prefixes: Prefixes, post: Post, max_waiting: int = 256) -> None:
        self.model, self.prefixes, self.counts = model, prefixes, Counts()
        self.max_waiting = max_waiting
        self._slots = model.slots(slots)
        self._post = post
        self._new: list[Ticket] = []
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._changed = threading.Condition()
        self._closing = False
        self._out: list[tuple[Deliver, Piece]] = []
        self._copies: list[tuple[Sequence, Callable[..., None], tuple[object, ...]]] = []  # what step 5 does
        self._thread = threading.Thread(target=self._work, name="rwkvquant-model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def slots(self) -> int:
        return self._slots.count

    @property
    def load(self) -> tuple[int, int]:
        """How many answers run, and how many wait."""
        return len(self._running), len(self._waiting) + sum(len(ticket.sequences) for ticket in self._new)

    def submit(self, jobs: ListOf[tuple[Job, Deliver, Constraint | None]], alike: int = 1) -> Ticket:
        """Begin answers. `alike` jobs in a row have the same prompt, which is read once for them.

        Raises ApiError if too many wait already, or if the server is closing.
        """
        ticket = Ticket()
        for index, (job, deliver, constraint) in enumerate(jobs):
            sequence = Sequence(job, self._later(deliver), self.model.tokenizer, constraint)
            if index % alike:
                sequence.leader = ticket.sequences[index - index % alike]
                sequence.leader.followers += 1
            ticket.sequences.append(sequence)
        with self._changed:
            if self._closing:
                raise ApiError("the server is stopping; try again later", 503, code="server_stopping")
            if self.load[1] + len(jobs) > self.max_waiting:
                raise ApiError(f"{self.load[1]} answers are waiting already, and at most {self.max_waiting} may; try again later", 429)
            self._new.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody reads these answers any more."""
        with self._changed:
            for sequence in ticket.sequences:
                sequence.cancelled = True
            self._changed.notify()

    def close(self, timeout: float = 10.0) -> None:
        """Stop the thread after its current step. Answers that are not complete fail."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _later(self, deliver: Deliver) -> Deliver:
        return lambda piece: self._out.append((deliver, piece))

    def _work(self) -> None:
        self._slots.free(self._slots.add())  # brings memory of the slots, which takes longer than a step, before the first request
        while self._wait():
            try:
                self._step()
            except FormatError as error:  # the model's file became shorter
                self._fail_all(ApiError(str(error), 500, code="model_damaged"))
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                self._fail_all(error)
            self._settle()
        self._fail_all(ApiError("the server is stopping", 503, code="server_stopping"))
        self._send()

    def _wait(self) -> bool:
        """Until there is work; False if there is none any more."""
        with self._changed:
            while not (self._closing or self._new or self._waiting or self._running):
                self._changed.wait()
            for ticket in self._new:
                self._waiting.extend(ticket.sequences)
            self._new.clear()
            return not self._closing

    def _send(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._post(out)

    def _step(self) -> None:
        self._drop()
        self._admit()
        if not self._running:
            return
        begun = time.monotonic()
        work = self._plan()
        rows: dict[int, Logits] = {}
        for whole in (False, True):
            tokens = {s.slot: part for s, part in work if (s.reading and s.job.prompt_logprobs) == whole and s.slot is not None}
            if tokens:
                rows |= self._slots.forward(tokens, "all" if whole else "last")
        self.counts.steps += 1
        self.counts.step_seconds += time.monotonic() - begun
        for sequence, part in work:
            assert sequence.slot is not None
            self._guarded(sequence, self._after, rows[sequence.slot], len(part))
        self._settle()

    def _settle(self) -> None:
        """Deliver what is new, then copy states."""
        self._send()
        copies, self._copies = self._copies, []
        for sequence, copy, arguments in copies:
            if sequence.slot is not None:
                self._guarded(sequence, copy, *arguments)

    def _drop(self) -> None:
        """Let go of who left, and of who is late."""
        for sequence in [*self._running, *self._waiting]:
            if sequence.cancelled or sequence.job.late:
                if not sequence.cancelled:
                    sequence.fail(ApiError("the answer took longer than this server allows", 504, code="timeout"))
                self._release(sequence, cached=False)

    def _admit(self) -> None:
        for sequence in list(self._waiting):
            leader = sequence.leader
            if leader is not None and leader.fork is None:
                if not leader.done and not leader.cancelled:
                    continue  # it still reads the prompt
                sequence.fail(leader.failed or ApiError("the answers to this prompt were cancelled", 500))
                self._waiting.remove(sequence)
                continue
            if len(self._slots) == self._slots.count and not self._park():
                return
            self._waiting.remove(sequence)
            sequence.steps = 0
            self._guarded(sequence, self._begin)

    def _park(self) -> bool:
        """Take the slot of the answer that had one for the longest time, if it had its share."""
        oldest = max((s for s in self._running if s.slot is not None), key=lambda s: s.steps)
        if oldest.steps < QUANTUM:
            return False
        assert oldest.slot is not None
        oldest.parked = self._slots.state(oldest.slot)
        self._slots.free(oldest.slot)
        oldest.slot = None
        self._running.remove(oldest)
        self._waiting.append(oldest)
        self.counts.parked += 1
        return True

    def _begin(self, sequence: Sequence) -> None:
        """Give a slot to a sequence, with the longest prefix of its text that is known."""
        job = sequence.job
        state: State | None
        logits: Logits | None = None
        if sequence.parked is not None:
            state, sequence.parked = sequence.parked, None
        elif sequence.leader is not None:
            assert sequence.leader.fork is not None
            state, logits = sequence.leader.fork.state, sequence.leader.fork.logits
            sequence.read, sequence.cached = len(job.tokens), sequence.leader.cached
            sequence.prompt = sequence.leader.prompt
            sequence.leader.followers -= 1
            if not sequence.leader.followers:
                sequence.leader.fork = None
            sequence.leader = None
        else:
            state, logits = self._known(sequence)
        sequence.slot = self._slots.add(state)
        self._running.append(sequence)
        if logits is not None:
            self._choose(sequence, logits)
            self._settle()

    def _known(self, sequence: Sequence) -> tuple[State | None, Logits | None]:
        job = sequence.job
        self.counts.prompt_tokens += len(job.tokens)
        if job.prompt_logprobs:
            return job.begin.state, None
        found = self.prefixes.find(job.begin.key, job.tokens)
        sequence.cached = sequence.read = found.entry.length if found.entry else 0
        self.counts.cached_tokens += sequence.read
        marks = {*job.marks, found.shared, *range(INTERVAL, len(job.tokens), INTERVAL)}
        sequence.marks = sorted(mark for mark in marks if mark >= max(LEAST, sequence.read + 1) and mark < len(job.tokens))
        if found.entry is None:
            return job.begin.state, None
        return found.entry.state, found.entry.logits if sequence.read == len(job.tokens) else None

    def _plan(self) -> list[tuple[Sequence, ListOf[int]]]:
        """What each sequence reads in the next step."""
        readers = [sequence for sequence in self._running if sequence.reading]
        writers = [sequence for sequence in self._running if not sequence.reading]
        room = SLICE if writers else self._slots.step_tokens
        share = max(1, room // max(1, len(readers)))
        return [*((each, [each.next_token]) for each in writers), *((each, each.slice(share)) for each in readers)]

    def _after(self, sequence: Sequence, rows: Logits, count: int) -> None:
        """A sequence has read `count` tokens."""
        sequence.steps += 1
        if not sequence.reading:
            self._choose(sequence, rows)
            return
        whole = sequence.job.prompt_logprobs
        sequence.took(rows, count)
        if sequence.read < len(sequence.job.tokens):
            if not whole and sequence.read in sequence.marks:
                self._copies.append((sequence, self._keep, ()))
            return
        logits = rows[-1] if whole else rows
        if len(sequence.job.tokens) >= LEAST:
            self._copies.append((sequence, self._keep, (logits,)))
        self._choose(sequence, logits)

    def _choose(self, sequence: Sequence, logits: Logits) -> None:
        before = len(sequence.written)
        held = sequence.choose(logits)
        self.counts.written_tokens += len(sequence.written) - before
        if held or sequence.done or (sequence.followers and not before):
            self._copies.append((sequence, self._chosen, (logits, before, held)))
        elif not sequence.holds_back:
            sequence.place = None

    def _chosen(self, sequence: Sequence, logits: Logits, before: int, held: bool) -> None:
        """A token was chosen, after `before` others. `held`: it begins a text that is held back."""
        assert sequence.slot is not None
        if sequence.followers and not before:
            sequence.fork = Fork(self._slots.state(sequence.slot), logits)
        if held:
            sequence.place = (sequence.read + before, self._slots.state(sequence.slot))
        elif not sequence.holds_back:
            sequence.place = None
        if sequence.done:
            self._release(sequence, cached=True)

    def _keep(self, sequence: Sequence, logits: Logits | None = None) -> None:
        assert sequence.slot is not None
        self.prefixes.put(sequence.job.begin.key, sequence.job.tokens[: sequence.read], self._slots.state(sequence.slot), logits)

    def _release(self, sequence: Sequence, cached: bool) -> None:
        """A sequence is over: its slot is free. `cached`: the state at the end of its answer is kept."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence.slot is None:
            return
        if cached and sequence.failed is None:
            read = sequence.tokens_read
            length = sequence.place[0] if sequence.place else len(read)
            if length >= LEAST and length > len(sequence.job.tokens):  # the state after the prompt is kept already
                state = sequence.place[1] if sequence.place else self._slots.state(sequence.slot)
                self.prefixes.put(sequence.job.begin.key, read[:length], state)
        self._slots.free(sequence.slot)
        sequence.slot = None
        self._running.remove(sequence)

    def _guarded(self, sequence: Sequence, work: Callable[..., None], *arguments: object) -> None:
        """An error in the work for one sequence ends this one alone."""
        try:
            work(sequence, *arguments)
        except Exception as error:
            if not isinstance(error, ConfigError | FormatError | ApiError):
                traceback.print_exc(file=sys.stderr)
            sequence.fail(error)
            self._release(sequence, cached=False)

    def _fail_all(self, error: Exception) -> None:
        for sequence in [*self._running, *self._waiting]:
            sequence.fail(error)
            self._release(sequence, cached=False)
        with self._changed:
            for ticket in self._new:
                for sequence in ticket.sequences:
                    sequence.fail(error)
            self._new.clear()

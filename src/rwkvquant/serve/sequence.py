"""One answer that grows: what the scheduler knows of it between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from rwkvquant.runtime.session import END_OF_TEXT, Logits
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.stopping import TextUntilStop
from rwkvquant.runtime.tokenizer_base import Tokenizer
from rwkvquant.serve.choosing import Chooser, Constraint, scored, scored_rows
from rwkvquant.serve.jobs import Deliver, Job, Piece, Scored


@dataclass
class Fork:
    """Where several answers to one prompt part: the state after it, and the logits."""

    state: State
    logits: Logits


@dataclass(eq=False)
class Sequence:
    """`read` tokens of the prompt are in the state; then each token of `written` but the last, which `next_token` is.

    `leader`: another answer to the same prompt, which reads it for this one too. `parked`: the state of one that gave its slot to others.
    `steps`: how many steps it took part in since it has its slot.
    """

    job: Job
    deliver: Deliver
    tokenizer: Tokenizer
    constraint: Constraint | None = None
    leader: Sequence | None = None
    followers: int = 0
    slot: int | None = None
    parked: State | None = None
    steps: int = 0
    read: int = 0
    cached: int = 0
    marks: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    prompt: list[Scored] = field(default_factory=list)
    fork: Fork | None = None
    cancelled: bool = False
    failed: Exception | None = None
    finish: str | None = None
    place: tuple[int, State] | None = None  # tokens read, state: where text that is held back began

    def __post_init__(self) -> None:
        self._chooser = Chooser(self.job.sampling, self.job.bias, self.constraint)
        self._output = TextUntilStop(self.tokenizer.stream_decoder(after=self.job.tokens), self.job.stop)
        self._shown = ""
        self._waiting: list[Scored] = []  # their text is held back

    @property
    def reading(self) -> bool:
        return not self.written and self.finish is None

    @property
    def next_token(self) -> int:
        return self.written[-1]

    @property
    def tokens_read(self) -> tuple[int, ...]:
        """What the state in the slot has read. The token that was chosen last is not in it."""
        return (*self.job.tokens[: self.read], *self.written[:-1])

    @property
    def holds_back(self) -> bool:
        return self._output.holds_back

    @property
    def done(self) -> bool:
        return self.finish is not None or self.failed is not None

    def slice(self, most: int) -> tuple[int, ...]:
        """The tokens of the prompt that are read next: at most so many, and only up to the next mark."""
        self.marks = [mark for mark in self.marks if mark > self.read]
        end = min([self.read + most, len(self.job.tokens), *self.marks])
        return self.job.tokens[self.read : end]

    def took(self, rows: Logits, count: int) -> None:
        """`count` tokens of the prompt were read: with `prompt_logprobs` there is a row of logits for each of them."""
        if self.job.prompt_logprobs:
            after = self.job.tokens[self.read + 1 : self.read + count + 1]
            self.prompt += scored_rows(rows[: len(after)], after, self.job.top_logprobs or 0)
        self.read += count

    def choose(self, logits: Logits) -> bool:
        """Take the logits after all that was read, choose a token, deliver text -> whether text is held back from here on.

        Sets `finish` where the answer ends. Raises ConfigError for logits that are not finite.
        """
        first = not self.written
        if self.job.max_tokens == 0:
            self._end("length", first)
            return False
        held = self._output.holds_back
        token = self._chooser.next(logits)
        offset = len(self._shown) + len(self._output.waiting)
        self.written.append(token)
        if self.job.top_logprobs is not None:
            self._waiting.append(scored(logits, token, self.job.top_logprobs, offset))
        text = "" if token == END_OF_TEXT else self._output.push(token)
        self._shown += text
        if token == END_OF_TEXT or self._output.stopped or self._chooser.ended:
            self._end("stop", first, text)
        elif len(self.written) == self.job.max_tokens:
            self._end("length", first, text)
        else:
            self._send(text, first, len(self._shown))
        return self._output.holds_back and not held

    def fail(self, error: Exception) -> None:
        self.failed = error
        self.deliver(Piece(error=error))

    def _end(self, reason: str, first: bool, text: str = "") -> None:
        rest = self._output.finish()
        self._shown += rest
        self.finish = "stop" if self._output.stopped else reason
        self._send(text + rest, first, len(self._shown) if self._output.stopped else None)

    def _send(self, text: str, first: bool, shown: int | None) -> None:
        """Deliver text with the tokens that begin in it. `shown`: how many characters were passed on; None: all there are."""
        ready = [each for each in self._waiting if shown is None or each.offset < shown]
        self._waiting = self._waiting[len(ready) :]
        prompt = (Scored(self.job.tokens[0], None, ()), *self.prompt) if first and self.job.prompt_logprobs else ()
        if text or ready or first or self.finish:
            self.deliver(Piece(text, tuple(ready), self.finish, len(self.written), self.cached, prompt))

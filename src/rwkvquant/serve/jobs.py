"""What passes between the requests of clients and the thread that owns the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.states.files import State


@dataclass(frozen=True)
class Begin:
    """The state in front of a prompt. None: the model's own. `key` differs where the state differs: it keeps cached prefixes apart."""

    key: str = ""
    state: State | None = None


@dataclass(frozen=True)
class Job:
    """One answer to write.

    `tokens`: what is read after `begin`, a token 0 at the beginning included.
    `bias`: added to the logits of these tokens. `top_logprobs`: how many likely tokens are reported with each token; None: no report.
    `prompt_logprobs`: the same report for the tokens of the prompt, which then is read as a whole.
    `marks`: numbers of tokens after which others may continue in another way; their states are worth keeping.
    `deadline`: time.monotonic() at which the answer fails.
    """

    tokens: tuple[int, ...]
    max_tokens: int
    sampling: SamplingConfig
    stop: tuple[str, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    prompt_logprobs: bool = False
    begin: Begin = field(default_factory=Begin)
    marks: tuple[int, ...] = ()
    deadline: float = float("inf")

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability before any temperature, penalty or bias; None for the first of a text. `offset`: of its text."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    offset: int = 0


@dataclass(frozen=True)
class Piece:
    """What is new of one answer. `finish`: "stop" or "length", in the last piece. `count`: how many tokens were chosen until now.

    `prompt`: the report on the prompt, in the first piece; `cached`: how many tokens of the prompt were not read again.
    """

    text: str = ""
    scored: tuple[Scored, ...] = ()
    finish: str | None = None
    count: int = 0
    cached: int = 0
    prompt: tuple[Scored, ...] = ()
    error: Exception | None = None


Deliver = Callable[[Piece], None]

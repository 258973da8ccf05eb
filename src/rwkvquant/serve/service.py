"""What all requests share: the model, its scheduler, the template, and what the one who started the server chose."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.errors import RwkvQuantError
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import END_OF_TEXT, Model
from rwkvquant.runtime.templates import ChatTemplate
from rwkvquant.serve.body import Fields
from rwkvquant.serve.encoding import Encoder
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.grammar import Grammars
from rwkvquant.serve.jobs import Begin, Job
from rwkvquant.serve.scheduler import Scheduler
from rwkvquant.serve.states import Session, Sessions, UploadedStates

MAX_SEED = 1 << 64

Events = AsyncGenerator[dict[str, Any] | tuple[str, dict[str, Any]], None]  # data, or (name of the event, data)


@dataclass(frozen=True)
class Stream:
    """An answer that is sent as it grows. `done`: whether "[DONE]" ends it."""

    events: Events
    done: bool = True


Reply = dict[str, Any] | Stream


@dataclass(frozen=True)
class Limits:
    """`max_tokens`: of one answer; a request that asks for more gets so many. `timeout`: seconds for a whole answer."""

    max_tokens: int = 4096
    max_prompt: int = 131072
    max_body: int = 16 << 20
    max_choices: int = 64
    timeout: float = 600.0
    stall: float = 60.0  # seconds that a client may take none of what is sent


@dataclass(frozen=True)
class Defaults:
    """For what a request does not say."""

    temperature: float = 1.0
    top_p: float = 0.7
    think: str | None = None


@dataclass(frozen=True)
class FileFacts:
    """The model's file. `bits_per_weight`: of projections and LoRA factors, `bits_per_weight_file`: all bytes over all weights."""

    name: str
    bytes: int
    bits_per_weight: float | None
    bits_per_weight_file: float | None


@dataclass
class Service:
    model: Model
    name: str
    scheduler: Scheduler
    template: ChatTemplate
    limits: Limits = field(default_factory=Limits)
    defaults: Defaults = field(default_factory=Defaults)
    states: UploadedStates = field(init=False)
    sessions: Sessions = field(default_factory=Sessions)
    grammars: Grammars = field(init=False)
    version: str = ""
    file: FileFacts | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.states = UploadedStates(self.model)
        self.grammars = Grammars(self.model.tokenizer, self.model.dims.vocab)
        self._encoder = Encoder(self.model.tokenizer)

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint`: the same request with the same seed gives the same answer while this stays the same."""
        return f"rwkvquant-{self.version}"

    def encode(self, text: str, param: str) -> list[int]:
        """Raises ApiError for text that is not Unicode, or that is too long."""
        if len(text) > 32 * self.limits.max_prompt:  # a token has at most a few dozen characters: do not spend the time
            raise self.too_long(f"{len(text)} characters", param)
        try:
            return self._encoder.encode(text)
        except RwkvQuantError as error:
            raise ApiError(str(error), param=param) from None

    def too_long(self, got: str, param: str) -> ApiError:
        sentence = f"a prompt has at most {self.limits.max_prompt} tokens on this server; got {got}"
        return ApiError(sentence, param=param, code="context_length_exceeded")

    def prompt(self, tokens: Sequence[int], begin: Begin, param: str) -> tuple[int, ...]:
        """With a token 0 at the beginning, unless it is there or a state comes before it. Raises ApiError for a prompt that is too long."""
        if len(tokens) > self.limits.max_prompt:
            raise self.too_long(f"{len(tokens)}", param)
        if begin.state is None and (not tokens or tokens[0] != END_OF_TEXT):
            return (END_OF_TEXT, *tokens)
        if not tokens:
            raise ApiError("a prompt after a state has at least one token; got an empty one", param=param)
        return tuple(tokens)

    def sampling(self, fields: Fields, choice: int = 0) -> SamplingConfig:
        """`choice`: of several answers to one request each has its own seed."""
        seed = fields.get("seed")
        if seed is not None:
            seed = (fields.whole("seed", 0, -MAX_SEED, MAX_SEED) + choice) % MAX_SEED
        return SamplingConfig(
            temperature=fields.number("temperature", self.defaults.temperature, 0, 100),
            top_p=fields.number("top_p", self.defaults.top_p, 0, 1),
            presence_penalty=fields.number("presence_penalty", 0, -100, 100),
            frequency_penalty=fields.number("frequency_penalty", 0, -100, 100),
            penalty_decay=fields.number("penalty_decay", 1, 0, 1),
            seed=seed,
            top_k=max(0, fields.whole("top_k", 0, -1, 1 << 31)),
            min_p=fields.number("min_p", 0, 0, 1),
        )

    def jobs(self, fields: Fields, prompt: tuple[int, ...], count: int, max_tokens: int, begin: Begin, **options: Any) -> list[Job]:
        """`count` answers to one prompt."""
        stop = options.pop("stop", ()) + fields.stops()
        deadline = time.monotonic() + self.limits.timeout
        bias = fields.bias(self.model.dims.vocab)
        return [
            Job(
                prompt,
                min(max_tokens, self.limits.max_tokens),
                self.sampling(fields, choice),
                stop,
                bias,
                begin=begin,
                deadline=deadline,
                **options,
            )
            for choice in range(count)
        ]

    def begin(self, fields: Fields, headers: Mapping[str, str]) -> Begin:
        """What is in front of the prompt: the state of `state_id`. Raises ApiError for an unknown one."""
        name = identifier(fields, headers, "state_id")
        return self.states.begin(name) if name else Begin()

    def turn(self, fields: Fields, headers: Mapping[str, str]) -> Turn | None:
        """The session of `session_id`, if one is named.

        Raises ApiError while another request has it, and for another state than it began with.
        """
        name = identifier(fields, headers, "session_id")
        if not name:
            return None
        state = identifier(fields, headers, "state_id")
        session = self.sessions.open(name)
        turn = Turn(self.sessions, name, session)
        if (session.messages or session.tokens) and session.state_id != state:
            turn.close()
            raise ApiError(
                f"the session {name} began with the state {session.state_id or '(none)'}; got {state or '(none)'}", param="state_id"
            )
        session.state_id = state
        return turn


@dataclass
class Turn:
    """One request of a session."""

    sessions: Sessions
    name: str
    session: Session
    after: Session | None = None

    def close(self) -> None:
        self.sessions.close(self.name, self.after)


def identifier(fields: Fields, headers: Mapping[str, str], name: str) -> str:
    """`session_id` or `state_id`: in the body, or in the header X-Session-Id; empty if it was not said.

    Raises ApiError for two different values.
    """
    dashed = name.replace("_", "-")
    values = (fields.text(name), headers.get(f"x-{dashed}", ""), headers.get(f"x-rwkv-{dashed}", ""))
    said = {value for value in values if value}
    if len(said) > 1:
        raise ApiError(f"{name} was given with two values, in the body and in a header", param=name)
    return said.pop() if said else ""


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def usage(prompt: int, written: int, cached: int) -> dict[str, Any]:
    """`prompt`: tokens of the prompt, without the token 0 that the server reads first."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": min(cached, prompt)},
    }


def include_usage(fields: Fields) -> bool:
    """`stream_options`: only with `stream`, as OpenAI has it."""
    options = fields.fields("stream_options")
    if fields.get("stream_options") is not None and not fields.flag("stream"):
        raise ApiError("stream_options is only for stream=true", param="stream_options")
    return options.flag("include_usage")

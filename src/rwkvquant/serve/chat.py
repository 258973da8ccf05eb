"""/v1/chat/completions: a conversation in, an answer out, whole or as it grows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.runtime.session import END_OF_TEXT
from rwkvquant.runtime.thinking import ThinkingSplit, begun_thinking
from rwkvquant.runtime.tokenizer_base import Tokenizer
from rwkvquant.serve.answers import Answers
from rwkvquant.serve.body import Fields
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.jobs import Begin, Piece, Scored
from rwkvquant.serve.messages import read_messages
from rwkvquant.serve.service import Events, Reply, Service, Stream, include_usage, new_id, usage

MAX_TOP_LOGPROBS = 20
EFFORTS = {"none": "none", "minimal": "none", "low": "short", "medium": "on", "high": "long", "xhigh": "long"}


@dataclass
class Prompt:
    """What the model reads. `begun`: the thinking that the template began for it; None: answers have none."""

    tokens: tuple[int, ...]
    added: int
    begun: str | None
    marks: tuple[int, ...] = ()


@dataclass
class Choice:
    """One answer as it grows."""

    split: ThinkingSplit | None
    text: str = ""
    thinking: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    count: int = 0

    def add(self, piece: Piece) -> dict[str, str]:
        """What is new, as the fields of a delta."""
        self.count = piece.count
        if self.split is None:
            new = {"content": piece.text}
        else:
            parts = self.split.push(piece.text) + (self.split.finish() if piece.finish else [])
            new = {"content": "", "reasoning_content": ""}
            for part in parts:
                new["reasoning_content" if part.thinking else "content"] += part.text
        if not self.text:
            new["content"] = new["content"].lstrip()  # the space after "Assistant:"
        self.text += new["content"]
        self.thinking += new.get("reasoning_content", "")
        return {name: text for name, text in new.items() if text}


async def chat(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """Raises ApiError for a request that is wrong."""
    wants_usage = include_usage(fields)
    count = fields.whole("n", 1, 1, service.limits.max_choices)
    begin = service.begin(fields, headers)
    prompt = read_prompt(service, fields, begin)
    wants_logprobs = fields.flag("logprobs")
    top = fields.whole("top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top and not wants_logprobs:
        raise ApiError("top_logprobs needs logprobs=true", param="top_logprobs")
    name = "max_tokens" if fields.get("max_completion_tokens") is None else "max_completion_tokens"
    jobs = service.jobs(
        fields,
        prompt.tokens,
        count,
        fields.whole(name, service.limits.max_tokens, 1, 1 << 31),
        begin,
        stop=service.template.stop,
        marks=prompt.marks,
        top_logprobs=top if wants_logprobs else None,
    )
    choices = [Choice(None if prompt.begun is None else ThinkingSplit(prompt.begun)) for _ in jobs]
    answers = Answers(service.scheduler, jobs, alike=count)
    growing = Growing(service, prompt, choices, answers, wants_logprobs)
    if fields.flag("stream"):
        return Stream(growing.chunks(wants_usage))
    return await growing.whole()


def read_prompt(service: Service, fields: Fields, begin: Begin) -> Prompt:
    """The conversation as tokens, up to where the model answers."""
    messages = read_messages(fields)
    template = service.template
    think = thinking(service, fields)
    text = template.render(messages, think)  # type: ignore[arg-type]
    tokens = template.tokens(text, lambda part: service.encode(part, "messages"))
    whole = service.prompt(tokens, begin, "messages")
    added = len(whole) - len(tokens)
    marks = []
    if messages[0]["role"] == "system" and len(messages) > 1 and not template.end_mark:
        system = template.render(messages[:1], None, False)  # type: ignore[arg-type]
        if text.startswith(system):  # another conversation with this system text goes on from here
            marks.append(shared_tokens(tokens, service.encode(system, "messages")) + added)
    return Prompt(whole, added, begun_thinking(text) if template.thinking else None, tuple(marks))


def shared_tokens(tokens: list[int], others: list[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(tokens, others, strict=False)) if a != b), min(len(tokens), len(others)))


def thinking(service: Service, fields: Fields) -> str | None:
    """How to think: `think` by the template's own names, `reasoning_effort`, or `enable_thinking` of chat_template_kwargs."""
    ways = service.template.thinking
    if (asked := fields.get("think")) is not None:
        return fields.choice("think", ways, "") if ways else service.template.require_think(str(asked))  # type: ignore[func-returns-value]
    if not ways:
        return None
    enabled = fields.fields("chat_template_kwargs").get("enable_thinking")
    effort = fields.get("reasoning_effort")
    if isinstance(effort, str) and effort in EFFORTS:
        return EFFORTS[effort] if EFFORTS[effort] in ways else "on" if EFFORTS[effort] != "none" else None
    if isinstance(enabled, bool):
        return "on" if enabled else "none"
    return service.defaults.think


@dataclass
class Growing:
    """The answers to one request, and the shapes in which they are sent."""

    service: Service
    prompt: Prompt
    choices: list[Choice]
    answers: Answers
    wants_logprobs: bool
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))
    cached: int = 0

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self.answers.pieces()) as pieces:
            async for index, piece in pieces:
                self._add(index, piece)
        return self._envelope("chat.completion") | {"choices": list(map(self._choice, range(len(self.choices)))), "usage": self._usage()}

    async def chunks(self, wants_usage: bool) -> Events:
        async with aclosing(self.answers.pieces()) as pieces:
            begun: set[int] = set()
            async for index, piece in pieces:
                new, logprobs = self._add(index, piece)
                if index not in begun:
                    begun.add(index)
                    yield self._chunk(index, {"role": "assistant", "content": ""}, None, None, wants_usage)
                if new or logprobs:
                    yield self._chunk(index, new, logprobs, None, wants_usage)
                if piece.finish:
                    yield self._chunk(index, {}, None, piece.finish, wants_usage)
        if wants_usage:
            yield self._envelope("chat.completion.chunk") | {"choices": [], "usage": self._usage()}

    def _add(self, index: int, piece: Piece) -> tuple[dict[str, str], list[dict[str, Any]]]:
        choice = self.choices[index]
        self.cached = max(self.cached, piece.cached)
        new = choice.add(piece)
        tokenizer = self.service.model.tokenizer
        logprobs = [token_logprob(tokenizer, each) for each in piece.scored if each.token != END_OF_TEXT]
        choice.logprobs += logprobs
        choice.finish = piece.finish
        return new, logprobs

    def _envelope(self, kind: str) -> dict[str, Any]:
        about = {"id": self.id, "object": kind, "created": self.created, "model": self.service.name}
        return about | {"system_fingerprint": self.service.fingerprint}

    def _choice(self, index: int) -> dict[str, Any]:
        choice = self.choices[index]
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.split is not None:
            message["reasoning_content"] = choice.thinking
        logprobs = {"content": choice.logprobs, "refusal": None} if self.wants_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: list[dict[str, Any]] | None, finish: str | None, wants_usage: bool
    ) -> dict[str, Any]:
        scores = {"content": logprobs, "refusal": None} if self.wants_logprobs and logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}
        return self._envelope("chat.completion.chunk") | {"choices": [choice]} | ({"usage": None} if wants_usage else {})

    def _usage(self) -> dict[str, Any]:
        written = sum(choice.count for choice in self.choices)
        return usage(len(self.prompt.tokens) - self.prompt.added, written, self.cached)


def token_logprob(tokenizer: Tokenizer, each: Scored) -> dict[str, Any]:
    """As OpenAI has it: the text of a token may be half a character, its bytes are exact."""

    def one(token: int, logprob: float | None) -> dict[str, Any]:
        raw = tokenizer.decode_bytes([token])
        return {"token": raw.decode("utf-8", errors="replace"), "logprob": logprob, "bytes": list(raw)}

    return one(each.token, each.logprob) | {"top_logprobs": [one(*pair) for pair in each.top]}

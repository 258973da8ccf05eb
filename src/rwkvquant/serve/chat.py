"""/v1/chat/completions: a conversation in, an answer out, whole or as it grows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.runtime.session import END_OF_TEXT
from rwkvquant.runtime.tokenizer_base import Tokenizer
from rwkvquant.serve.body import Fields
from rwkvquant.serve.conversation import Choice, Conversation, Delta, converse, read_format
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.jobs import Piece, Scored
from rwkvquant.serve.messages import read_messages
from rwkvquant.serve.service import Events, Reply, Service, Stream, Turn, include_usage, new_id, usage
from rwkvquant.serve.states import Session
from rwkvquant.serve.tools import read_tools

MAX_TOP_LOGPROBS = 20


async def chat(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """Raises ApiError for a request that is wrong."""
    wants_usage = include_usage(fields)
    turn = service.turn(fields, headers)
    try:
        messages = read_messages(fields)
        if turn is not None:
            messages = continued(turn, messages, fields)
        conversation, wants_logprobs = await _begun(service, fields, headers, messages)
    except BaseException:
        if turn is not None:
            turn.close()
        raise
    growing = Growing(service, conversation, wants_logprobs, messages, turn)
    if fields.flag("stream"):
        return Stream(growing.chunks(wants_usage))
    return await growing.whole()


def continued(turn: Turn, messages: list[dict[str, Any]], fields: Fields) -> list[dict[str, Any]]:
    """The conversation of a session, with new messages. Raises ApiError for answers of the model, which the server has already."""
    if fields.whole("n", 1, 1, 1 << 31) != 1:
        raise ApiError("a session has one answer to each request; leave n out", param="n")
    if turn.session.tokens:
        raise ApiError(f"the session {turn.name} is one of /v1/completions", param="session_id")
    if turn.session.messages and any(message["role"] == "assistant" for message in messages):
        sentence = (
            "a request of a session has only what is new, and the server has the answers; leave session_id out to send a whole conversation"
        )
        raise ApiError(sentence, param="messages")
    return [*turn.session.messages, *messages]


async def _begun(service: Service, fields: Fields, headers: Mapping[str, str], messages: list[dict[str, Any]]) -> tuple[Conversation, bool]:
    wants_logprobs = fields.flag("logprobs")
    top = fields.whole("top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top and not wants_logprobs:
        raise ApiError("top_logprobs needs logprobs=true", param="top_logprobs")
    name = "max_tokens" if fields.get("max_completion_tokens") is None else "max_completion_tokens"
    conversation = await converse(
        service,
        fields,
        messages,
        service.begin(fields, headers),
        count=fields.whole("n", 1, 1, service.limits.max_choices),
        max_tokens=fields.whole(name, service.limits.max_tokens, 1, 1 << 31),
        top_logprobs=top if wants_logprobs else None,
        wish=read_tools(fields),
        schema=read_format(fields),
    )
    return conversation, wants_logprobs


@dataclass
class Growing:
    """The answers to one request, and the shapes in which they are sent."""

    service: Service
    conversation: Conversation
    wants_logprobs: bool
    messages: list[dict[str, Any]]
    turn: Turn | None
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))
    cached: int = 0
    logprobs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    async def whole(self) -> dict[str, Any]:
        try:
            async with aclosing(self.conversation.answers.pieces()) as pieces:
                async for index, piece in pieces:
                    self._add(index, piece)
            self._ended()
        finally:
            self._close()
        choices = [self._choice(index, choice) for index, choice in enumerate(self.conversation.choices)]
        return self._envelope("chat.completion") | {"choices": choices, "usage": self._usage()}

    async def chunks(self, wants_usage: bool) -> Events:
        try:
            begun: set[int] = set()
            async with aclosing(self.conversation.answers.pieces()) as pieces:
                async for index, piece in pieces:
                    new, logprobs = self._add(index, piece)
                    if index not in begun:
                        begun.add(index)
                        yield self._chunk(index, {"role": "assistant", "content": ""}, wants_usage)
                    delta = self._delta(index, new)
                    if delta or logprobs:
                        yield self._chunk(index, delta, wants_usage, logprobs)
                    if piece.finish:
                        yield self._chunk(index, {}, wants_usage, finish=self.conversation.choices[index].finish)
            self._ended()
            if wants_usage:
                yield self._envelope("chat.completion.chunk") | {"choices": [], "usage": self._usage()}
        finally:
            self._close()

    def _add(self, index: int, piece: Piece) -> tuple[Delta, list[dict[str, Any]]]:
        self.cached = max(self.cached, piece.cached)
        new = self.conversation.choices[index].add(piece)
        tokenizer = self.service.model.tokenizer
        logprobs = [token_logprob(tokenizer, each) for each in piece.scored if each.token != END_OF_TEXT]
        self.logprobs.setdefault(index, []).extend(logprobs)
        return new, logprobs

    def _ended(self) -> None:
        """The session now has this answer too."""
        if self.turn is not None:
            choice = self.conversation.choices[0]
            answer = {"role": "assistant", "content": choice.words.strip()}
            if choice.calls:
                answer["tool_calls"] = choice.calls  # type: ignore[assignment]
            self.turn.after = Session([*self.messages, answer], (), self.turn.session.state_id)

    def _close(self) -> None:
        if self.turn is not None:
            self.turn.close()

    def _envelope(self, kind: str) -> dict[str, Any]:
        about = {"id": self.id, "object": kind, "created": self.created, "model": self.service.name}
        return about | {"system_fingerprint": self.service.fingerprint}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.words, "refusal": None}
        if choice.calls:
            message |= {"content": choice.words.rstrip() or None, "tool_calls": choice.calls}
        if choice.thinks is not None:
            message["reasoning_content"] = choice.thinking
        logprobs = {"content": self.logprobs.get(index, []), "refusal": None} if self.wants_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}

    def _delta(self, index: int, new: Delta) -> dict[str, Any]:
        first = len(self.conversation.choices[index].calls) - len(new.calls)
        delta: dict[str, Any] = {"content": new.words} if new.words else {}
        if new.thinking:
            delta["reasoning_content"] = new.thinking
        if new.calls:
            delta["tool_calls"] = [{"index": first + place} | call for place, call in enumerate(new.calls)]
        return delta

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        wants_usage: bool,
        logprobs: list[dict[str, Any]] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        scores = {"content": logprobs, "refusal": None} if self.wants_logprobs and logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}
        return self._envelope("chat.completion.chunk") | {"choices": [choice]} | ({"usage": None} if wants_usage else {})

    def _usage(self) -> dict[str, Any]:
        written = sum(choice.count for choice in self.conversation.choices)
        return usage(self.conversation.prompt.given, written, self.cached)


def token_logprob(tokenizer: Tokenizer, each: Scored) -> dict[str, Any]:
    """As OpenAI has it: the text of a token may be half a character, its bytes are exact."""

    def one(token: int, logprob: float | None) -> dict[str, Any]:
        raw = tokenizer.decode_bytes([token])
        return {"token": raw.decode("utf-8", errors="replace"), "logprob": logprob, "bytes": list(raw)}

    return one(each.token, each.logprob) | {"top_logprobs": [one(*pair) for pair in each.top]}

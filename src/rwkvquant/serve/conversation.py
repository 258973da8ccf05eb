"""From messages to a prompt, and from what the model writes to words, thinking and calls. /v1/chat/completions and /v1/responses use it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.runtime.thinking import CLOSE, ThinkingSplit, begun_thinking
from rwkvquant.serve.answers import Answers
from rwkvquant.serve.body import Fields
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.grammar import Grammar
from rwkvquant.serve.jobs import Begin, Piece
from rwkvquant.serve.service import Service
from rwkvquant.serve.tools import CallSplit, Wish, without_tools

EFFORTS = {"none": "none", "minimal": "none", "low": "short", "medium": "on", "high": "long", "xhigh": "long"}


@dataclass(frozen=True)
class Prompt:
    """What the model reads. `added`: tokens that the server puts in front. `begun`: the end of the text, where thinking begins.

    `marks`: numbers of tokens after which another conversation may go on in another way.
    """

    tokens: tuple[int, ...]
    added: int
    begun: str
    marks: tuple[int, ...] = ()

    @property
    def given(self) -> int:
        return len(self.tokens) - self.added


@dataclass(frozen=True)
class Delta:
    """What is new of an answer."""

    words: str = ""
    thinking: str = ""
    calls: tuple[dict[str, Any], ...] = ()


@dataclass
class Choice:
    """One answer as it grows. `thinks`: None for a template whose answers have no thinking."""

    thinks: ThinkingSplit | None
    split: CallSplit | None
    words: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    count: int = 0

    def add(self, piece: Piece) -> Delta:
        self.count = piece.count
        words, thinking = piece.text, ""
        calls: list[dict[str, Any]] = []
        if self.thinks is not None:
            parts = self.thinks.push(words) + (self.thinks.finish() if piece.finish else [])
            words, thinking = ("".join(part.text for part in parts if part.thinking == kind) for kind in (False, True))
        if self.split is not None:
            words, calls = self.split.push(words)
            if piece.finish:
                more, last = self.split.finish()
                words, calls = words + more, calls + last
        if not self.words:
            words = words.lstrip()  # the space after "Assistant:"
        self.words += words
        self.thinking += thinking
        self.calls += calls
        if piece.finish:
            self.finish = "tool_calls" if self.calls and piece.finish == "stop" else piece.finish
        return Delta(words, thinking, tuple(calls))


@dataclass(frozen=True)
class Conversation:
    """A prompt, and the answers to it that were begun."""

    prompt: Prompt
    choices: list[Choice]
    answers: Answers


async def converse(
    service: Service,
    fields: Fields,
    messages: Sequence[dict[str, Any]],
    begin: Begin,
    *,
    count: int,
    max_tokens: int,
    top_logprobs: int | None,
    wish: Wish,
    schema: tuple[Any, str] | None,
) -> Conversation:
    """Begin the answers. `schema`: what they must fit, and the field that said so. Raises ApiError for what is wrong."""
    constrained = schema is not None or bool(wish.must)
    prompt = read_prompt(service, fields, messages, begin, wish, constrained)
    jobs = service.jobs(
        fields,
        prompt.tokens,
        count,
        max_tokens,
        begin,
        stop=service.template.stop,
        marks=prompt.marks,
        top_logprobs=top_logprobs,
    )
    grammars: list[Grammar | None] = [None] * count
    if constrained:  # a complex schema takes a while to read
        grammars = [await asyncio.to_thread(_grammar, service, wish, schema) for _ in jobs]
    names = frozenset(tool.name for tool in wish.tools)
    splits = [CallSplit(names) if names else None for _ in jobs]
    thinks = [ThinkingSplit(prompt.begun) if service.template.thinking and not constrained else None for _ in jobs]
    choices = [Choice(think, split) for think, split in zip(thinks, splits, strict=True)]
    return Conversation(prompt, choices, Answers(service.scheduler, jobs, grammars, alike=count))


def _grammar(service: Service, wish: Wish, schema: tuple[Any, str] | None) -> Grammar:
    if wish.must:
        return service.grammars.call(wish.must, "tools")
    assert schema is not None
    return service.grammars.json(*schema)


def read_prompt(
    service: Service, fields: Fields, messages: Sequence[dict[str, Any]], begin: Begin, wish: Wish | None = None, constrained: bool = False
) -> Prompt:
    """The conversation as tokens, up to where the model answers. A constrained answer has no thinking."""
    template, tools = service.template, wish.tools if wish else ()
    think = thinking(service, fields)
    if constrained and template.thinking:
        think = "none"
    if not template.knows_tools:
        messages = without_tools(messages, tools)
    if begin.state is None and messages[0]["role"] != "system":
        messages = [*template.opening, *messages]  # type: ignore[list-item]
    described = [tool.as_openai for tool in tools] if template.knows_tools else None
    text = template.render(messages, think, tools=described)  # type: ignore[arg-type]
    if constrained and begun_thinking(text).endswith(CLOSE[:-1]):
        text += CLOSE[-1] + "\n"
    tokens = template.tokens(text, lambda part: service.encode(part, "messages"))
    whole = service.prompt(tokens, begin, "messages")
    marks = []
    if messages[0]["role"] == "system" and len(messages) > 1 and not template.end_mark:
        system = template.render(messages[:1], None, False)  # type: ignore[arg-type]
        if text.startswith(system):  # another conversation with this system text goes on from here
            marks.append(shared_tokens(tokens, service.encode(system, "messages")) + len(whole) - len(tokens))
    return Prompt(whole, len(whole) - len(tokens), begun_thinking(text), tuple(marks))


def shared_tokens(tokens: list[int], others: list[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(tokens, others, strict=False)) if a != b), min(len(tokens), len(others)))


def thinking(service: Service, fields: Fields) -> str | None:
    """How to think: `think` by the template's own names, `reasoning_effort`, or `enable_thinking` of chat_template_kwargs."""
    template = service.template
    if fields.get("think") is not None:
        asked = fields.text("think")
        template.require_think(asked)
        return asked
    if not template.thinking:
        return None
    effort = fields.get("reasoning_effort") or fields.fields("reasoning").get("effort")
    enabled = fields.fields("chat_template_kwargs").get("enable_thinking")
    if isinstance(effort, str) and effort in EFFORTS:
        way = EFFORTS[effort]
        return way if way in template.thinking else "on"
    if isinstance(enabled, bool):
        return "on" if enabled else "none"
    return service.defaults.think


def read_format(fields: Fields, name: str = "response_format") -> tuple[Any, str] | None:
    """`response_format`: None for text, else a schema and the field that it came from."""
    asked = fields.fields(name)
    kind = asked.choice("type", ("text", "json_object", "json_schema"), "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}, name
    inner = asked.fields("json_schema") if asked.get("json_schema") is not None else asked  # /v1/responses has it without the inner object
    if inner.get("schema") is None:
        raise ApiError("a json_schema has a schema", param=f"{inner.where}schema")
    return inner.get("schema"), f"{inner.where}schema"

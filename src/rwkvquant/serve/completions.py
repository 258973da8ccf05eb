"""/v1/completions: a text is continued, or scored (`echo` with `logprobs`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.errors import RwkvQuantError
from rwkvquant.runtime.tokenizer_base import Tokenizer, token_ids
from rwkvquant.serve.answers import Answers
from rwkvquant.serve.body import Fields
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.jobs import Job, Piece, Scored
from rwkvquant.serve.service import Events, Reply, Service, Stream, Turn, include_usage, new_id, usage
from rwkvquant.serve.states import Session

MAX_LOGPROBS, MAX_PROMPTS, MAX_TOKENS = 20, 256, 16


@dataclass
class Text:
    """One text as it grows. `given`: the prompt, which `echo` puts in front."""

    tokenizer: Tokenizer
    given: tuple[int, ...]
    added: int
    echo: bool
    wants_logprobs: bool
    text: str = ""
    logprobs: dict[str, list[Any]] = field(
        default_factory=lambda: {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    )
    finish: str | None = None
    count: int = 0
    begun: bool = False
    shift: int = 0

    def add(self, piece: Piece) -> dict[str, Any]:
        """What is new, as `text` and `logprobs` of a choice."""
        new: dict[str, Any] = {"text": piece.text, "logprobs": None}
        rows: list[tuple[Scored, int]] = []
        if not self.begun:
            self.begun = True
            if self.echo:
                own = self.given[self.added :]
                prompt = self.tokenizer.decode(own)
                rows = self._of_prompt(piece.prompt[self.added :])
                self.shift = len(prompt)
                new["text"] = prompt + new["text"]
        rows += [(each, self.shift + each.offset) for each in piece.scored]
        if self.wants_logprobs:
            new["logprobs"] = self._logprobs(rows)
            for name, values in new["logprobs"].items():
                self.logprobs[name] += values
        self.text += new["text"]
        self.count, self.finish = piece.count, piece.finish
        return new

    def _of_prompt(self, prompt: tuple[Scored, ...]) -> list[tuple[Scored, int]]:
        """The first token has no log-probability, as OpenAI has it."""
        rows, decoder, offset = [], self.tokenizer.stream_decoder(), 0
        for index, each in enumerate(prompt):
            rows.append((each if index else Scored(each.token, None, ()), offset))
            offset += len(decoder.push(each.token))
        return rows

    def _logprobs(self, rows: list[tuple[Scored, int]]) -> dict[str, list[Any]]:
        return {
            "tokens": [self._name(each.token) for each, _ in rows],
            "token_logprobs": [each.logprob for each, _ in rows],
            "top_logprobs": [None if each.logprob is None else self._top(each) for each, _ in rows],
            "text_offset": [offset for _, offset in rows],
        }

    def _top(self, each: Scored) -> dict[str, float]:
        """The likeliest, and the token that came; of tokens with the same text the likeliest."""
        best: dict[str, float] = {}
        for token, logprob in (*each.top, (each.token, each.logprob)):
            name = self._name(token)
            if logprob is not None and logprob > best.get(name, -float("inf")):
                best[name] = logprob
        return best

    def _name(self, token: int) -> str:
        raw = self.tokenizer.decode_bytes([token])
        try:
            return raw.decode() if raw else f"token:{token}"
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


async def completions(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """Raises ApiError for a request that is wrong."""
    wants_usage = include_usage(fields)
    if fields.get("suffix"):
        raise ApiError("this model continues texts and cannot fill in before a suffix; leave suffix out", param="suffix")
    count = fields.whole("n", 1, 1, service.limits.max_choices)
    if fields.whole("best_of", count, 1, service.limits.max_choices) != count:
        raise ApiError("best_of must be n, or left out: this server returns every answer that it writes", param="best_of")
    turn = service.turn(fields, headers)
    try:
        growing = _begun(service, fields, headers, count, turn)
    except BaseException:
        if turn is not None:
            turn.close()
        raise
    if fields.flag("stream"):
        return Stream(growing.chunks(wants_usage))
    return await growing.whole()


def _begun(service: Service, fields: Fields, headers: Mapping[str, str], count: int, turn: Turn | None) -> Growing:
    begin = service.begin(fields, headers)
    wants_logprobs, top = read_logprobs(fields)
    echo = fields.flag("echo")
    most = fields.whole("max_tokens", MAX_TOKENS, 0, 1 << 31)
    jobs: list[Job] = []
    texts: list[Text] = []
    prompts = read_prompts(service, fields)
    if turn is not None:
        prompts = continued(turn, prompts, count)
    for tokens in prompts:
        prompt = service.prompt(tokens, begin, "prompt")
        added = len(prompt) - len(tokens)
        jobs += service.jobs(
            fields,
            prompt,
            count,
            most,
            begin,
            top_logprobs=top if wants_logprobs else None,
            prompt_logprobs=echo and wants_logprobs,
        )
        texts += [Text(service.model.tokenizer, prompt, added, echo, wants_logprobs) for _ in range(count)]
    return Growing(service, texts, count, Answers(service.scheduler, jobs, alike=count), turn)


def continued(turn: Turn, prompts: list[list[int]], count: int) -> list[list[int]]:
    """The text of a session, and what is new."""
    if len(prompts) != 1 or count != 1:
        raise ApiError("a request of a session has one prompt and one answer", param="prompt")
    if turn.session.messages:
        raise ApiError(f"the session {turn.name} is one of /v1/chat/completions", param="session_id")
    return [[*turn.session.tokens, *prompts[0]]]


def read_logprobs(fields: Fields) -> tuple[bool, int]:
    """`logprobs`: how many; true and false are taken for 1 and none."""
    value = fields.get("logprobs")
    if isinstance(value, bool):
        return value, int(value)
    return value is not None, fields.whole("logprobs", 0, 0, MAX_LOGPROBS)


def read_prompts(service: Service, fields: Fields) -> list[list[int]]:
    """`prompt`: a text, texts, token ids, or lists of token ids. Not said: an empty text."""
    value = fields.get("prompt")
    if value is None:
        value = ""
    if isinstance(value, str):
        return [service.encode(value, "prompt")]
    if not isinstance(value, list) or not value:
        raise fields.error("prompt", "must be a string, a list of strings, a list of token ids, or a list of lists of token ids")
    if all(isinstance(each, int) for each in value):
        value = [value]
    if len(value) > MAX_PROMPTS:
        raise ApiError(f"a request has at most {MAX_PROMPTS} prompts; got {len(value)}", param="prompt")
    prompts = []
    for each in value:
        if isinstance(each, str):
            prompts.append(service.encode(each, "prompt"))
        elif isinstance(each, list):
            try:
                prompts.append(token_ids(each, service.model.dims.vocab))
            except RwkvQuantError as error:
                raise ApiError(str(error), param="prompt") from None
        else:
            raise fields.error("prompt", "must be a string, a list of strings, a list of token ids, or a list of lists of token ids")
    return prompts


@dataclass
class Growing:
    service: Service
    texts: list[Text]
    each: int  # how many texts have the same prompt
    answers: Answers
    turn: Turn | None
    id: str = field(default_factory=lambda: new_id("cmpl"))
    created: int = field(default_factory=lambda: int(time.time()))
    cached: dict[int, int] = field(default_factory=dict)

    async def whole(self) -> dict[str, Any]:
        try:
            async with aclosing(self.answers.pieces()) as pieces:
                async for index, piece in pieces:
                    self._add(index, piece)
            self._ended()
        finally:
            self._close()
        choices = [
            {"index": index, "text": text.text, "logprobs": text.logprobs if text.wants_logprobs else None, "finish_reason": text.finish}
            for index, text in enumerate(self.texts)
        ]
        return self._envelope() | {"choices": choices, "usage": self._usage()}

    async def chunks(self, wants_usage: bool) -> Events:
        try:
            async with aclosing(self.answers.pieces()) as pieces:
                async for index, piece in pieces:
                    choice = {"index": index} | self._add(index, piece) | {"finish_reason": piece.finish}
                    yield self._envelope() | {"choices": [choice]} | ({"usage": None} if wants_usage else {})
            self._ended()
            if wants_usage:
                yield self._envelope() | {"choices": [], "usage": self._usage()}
        finally:
            self._close()

    def _ended(self) -> None:
        """The session now has this text too."""
        if self.turn is not None:
            (text,) = self.texts
            own = self.service.model.tokenizer.encode(text.text[text.shift :])
            self.turn.after = Session([], (*text.given[text.added :], *own), self.turn.session.state_id)

    def _close(self) -> None:
        if self.turn is not None:
            self.turn.close()

    def _add(self, index: int, piece: Piece) -> dict[str, Any]:
        self.cached[index // self.each] = max(self.cached.get(index // self.each, 0), piece.cached)
        return self.texts[index].add(piece)

    def _envelope(self) -> dict[str, Any]:
        about = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.service.name}
        return about | {"system_fingerprint": self.service.fingerprint}

    def _usage(self) -> dict[str, Any]:
        prompts = self.texts[:: self.each]
        given = sum(len(text.given) - text.added for text in prompts)
        return usage(given, sum(text.count for text in self.texts), sum(self.cached.values()))

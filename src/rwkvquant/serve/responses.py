"""/v1/responses: the same conversations in OpenAI's newer shape, as Codex sends them. Nothing is stored: a request has the whole text.

A stream is a sequence of named events, each with its number. It ends with response.completed, response.incomplete (`max_output_tokens`)
or response.failed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.runtime.session import END_OF_TEXT
from rwkvquant.serve.body import Fields, shown
from rwkvquant.serve.chat import MAX_TOP_LOGPROBS, token_logprob
from rwkvquant.serve.conversation import Conversation, converse, read_format
from rwkvquant.serve.errors import ApiError, api_error
from rwkvquant.serve.jobs import Piece
from rwkvquant.serve.messages import ROLES, checked, content, read_call
from rwkvquant.serve.service import Events, Reply, Service, Stream, new_id
from rwkvquant.serve.tools import read_tools

IGNORED = ("reasoning",)  # earlier thinking: templates drop it
LOGPROBS = "message.output_text.logprobs"

Event = tuple[str, dict[str, Any]]


async def responses(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """Raises ApiError for a request that is wrong, and for one that needs an earlier response."""
    for name in ("previous_response_id", "conversation", "prompt"):
        if fields.get(name):
            raise ApiError(f"this server stores no responses: send the whole conversation as input, without {name}", param=name)
    if fields.flag("background"):
        raise ApiError("this server answers at once; leave background out", param="background")
    include = fields.get("include")
    wants_logprobs = isinstance(include, list) and LOGPROBS in include
    conversation = await converse(
        service,
        fields,
        read_input(fields),
        service.begin(fields, headers),
        count=1,
        max_tokens=fields.whole("max_output_tokens", service.limits.max_tokens, 1, 1 << 31),
        top_logprobs=fields.whole("top_logprobs", 0, 0, MAX_TOP_LOGPROBS) if wants_logprobs else None,
        wish=read_tools(fields),
        schema=read_format(fields.fields("text"), "format"),
    )
    growing = Growing(service, fields, conversation)
    return Stream(growing.events(), done=False) if fields.flag("stream") else await growing.whole()


def read_input(fields: Fields) -> list[dict[str, Any]]:
    """`instructions` and `input`, a text or a list of items, as messages. Raises ApiError for an item of an unknown type."""
    value = fields.get("input")
    messages: list[dict[str, Any]] = []
    if instructions := fields.text("instructions"):
        messages.append({"role": "system", "content": checked(instructions, "instructions")})
    if isinstance(value, str):
        return [*messages, {"role": "user", "content": checked(value, "input")}]
    for item in fields.objects("input", least=1):
        kind = item.get("type") or "message"
        if kind == "message":
            role = item.choice("role", ROLES, "user")
            messages.append({"role": "system" if role == "developer" else role, "content": content(item, optional=role == "assistant")})
        elif kind in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments") if kind == "function_call" else json.dumps({"input": item.text("input")})
            call = read_call(item, arguments, item.text("call_id"))
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind in ("function_call_output", "custom_tool_call_output"):
            messages.append({"role": "tool", "content": content(item, "output"), "tool_call_id": item.text("call_id")})
        elif kind not in IGNORED:
            raise ApiError(f"{item.where}type is not known on this server; got {shown(kind)}", param=f"{item.where}type")
    return messages


@dataclass
class Growing:
    """One answer, as the items of a response: thinking, words, calls. The last item grows."""

    service: Service
    fields: Fields
    conversation: Conversation
    id: str = field(default_factory=lambda: new_id("resp"))
    created: int = field(default_factory=lambda: int(time.time()))
    items: list[dict[str, Any]] = field(default_factory=list)
    cached: int = 0
    thought: int = 0
    number: int = 0

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self.conversation.answers.pieces()) as pieces:
            async for _, piece in pieces:
                for _ in self._add(piece):
                    pass
        return self._response(self._status())

    async def events(self) -> Events:
        try:
            for name in ("created", "in_progress"):
                yield self._numbered((f"response.{name}", {"response": self._response("in_progress")}))
            async with aclosing(self.conversation.answers.pieces()) as pieces:
                async for _, piece in pieces:
                    for event in self._add(piece):
                        yield self._numbered(event)
            status = self._status()
            yield self._numbered((f"response.{status}", {"response": self._response(status)}))
        except Exception as error:
            known = api_error(error)
            failed = self._response("failed") | {"error": {"code": known.code or "server_error", "message": str(known)}}
            yield self._numbered(("response.failed", {"response": failed}))
            if known.code == "internal_error":
                raise
        finally:
            self.conversation.answers.cancel()

    def _numbered(self, event: Event) -> Event:
        name, data = event
        self.number += 1
        return name, {"type": name, "sequence_number": self.number - 1, **data}

    def _add(self, piece: Piece) -> Iterator[Event]:
        (choice,) = self.conversation.choices
        self.cached = max(self.cached, piece.cached)
        new = choice.add(piece)
        if new.thinking:
            self.thought = piece.count
            yield from self._grow("reasoning", new.thinking, [])
        tokenizer = self.service.model.tokenizer
        logprobs = [token_logprob(tokenizer, each) for each in piece.scored if each.token != END_OF_TEXT]
        if new.words or logprobs:
            yield from self._grow("message", new.words, logprobs)
        for call in new.calls:
            yield from self._close()
            yield from self._call(call)
        if piece.finish:
            if not self.items:
                yield from self._grow("message", "", [])
            yield from self._close()

    def _grow(self, kind: str, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        """More text for the last item, or for a new one."""
        if not self.items or self.items[-1]["type"] != kind or self.items[-1]["status"] != "in_progress":
            yield from self._close()
            yield from self._open(kind)
        item = self.items[-1]
        part = item["content"][0]
        part["text"] += text
        where = self._where() | {"content_index": 0}
        if kind == "message":
            part["logprobs"] += logprobs
            yield "response.output_text.delta", where | {"delta": text, "logprobs": logprobs}
        else:
            yield "response.reasoning_text.delta", where | {"delta": text}

    def _open(self, kind: str) -> Iterator[Event]:
        if kind == "message":
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item: dict[str, Any] = {"id": new_id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        else:
            part = {"type": "reasoning_text", "text": ""}
            item = {"id": new_id("rs"), "type": "reasoning", "summary": [], "status": "in_progress", "content": []}
        self.items.append(item)
        yield "response.output_item.added", {"output_index": len(self.items) - 1, "item": {**item}}
        item["content"].append(part)
        yield "response.content_part.added", self._where() | {"content_index": 0, "part": {**part}}

    def _close(self) -> Iterator[Event]:
        if not self.items or self.items[-1]["status"] != "in_progress":
            return
        item = self.items[-1]
        part, where = item["content"][0], self._where() | {"content_index": 0}
        item["status"] = "completed"
        if item["type"] == "message":
            yield "response.output_text.done", where | {"text": part["text"], "logprobs": part["logprobs"]}
        else:
            yield "response.reasoning_text.done", where | {"text": part["text"]}
        yield "response.content_part.done", where | {"part": part}
        yield "response.output_item.done", {"output_index": len(self.items) - 1, "item": item}

    def _call(self, call: dict[str, Any]) -> Iterator[Event]:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        item = {"id": new_id("fc"), "type": "function_call", "call_id": call["id"], "name": name, "arguments": "", "status": "in_progress"}
        self.items.append(item)
        where = self._where()
        yield "response.output_item.added", {"output_index": where["output_index"], "item": {**item}}
        item |= {"arguments": arguments, "status": "completed"}
        yield "response.function_call_arguments.delta", where | {"delta": arguments}
        yield "response.function_call_arguments.done", where | {"arguments": arguments, "name": name}
        yield "response.output_item.done", {"output_index": where["output_index"], "item": {**item}}

    def _where(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def _status(self) -> str:
        return "incomplete" if self.conversation.choices[0].finish == "length" else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        """What was asked, as it was understood, and what there is until now."""
        fields, sampling = self.fields, self.service.sampling(self.fields)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": fields.get("instructions"),
            "max_output_tokens": fields.get("max_output_tokens"),
            "model": self.service.name,
            "output": [{**item} for item in self.items],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": fields.fields("reasoning").get("effort"), "summary": None},
            "store": False,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "text": {"format": fields.fields("text").get("format") or {"type": "text"}},
            "tool_choice": fields.get("tool_choice") or "auto",
            "tools": fields.get("tools") or [],
            "truncation": "disabled",
            "metadata": fields.get("metadata") or {},
            "usage": None if status in ("in_progress", "failed") else self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        given, written = self.conversation.prompt.given, self.conversation.choices[0].count
        return {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": min(self.cached, given)},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": self.thought},
            "total_tokens": given + written,
        }

"""Tools: what the model is told of them, and the calls in what it writes.

A Jinja template that knows tools gets them as they are. For other templates the system text describes them, and a call is written as

    <tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>

which is also what most templates for tools have.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.runtime.stopping import beginning_at_end
from rwkvquant.serve.body import Fields
from rwkvquant.serve.errors import ApiError

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
RESULT_OPEN, RESULT_CLOSE = "<tool_response>", "</tool_response>"
MAX_TOOLS = 128


@dataclass(frozen=True)
class Tool:
    """A function that the client can run. `parameters`: a JSON schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]

    @property
    def as_openai(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": self.parameters}}


@dataclass(frozen=True)
class Wish:
    """`tools` that the model is told of. `must`: those of which it has to call one; empty if it may answer in words."""

    tools: tuple[Tool, ...] = ()
    must: tuple[Tool, ...] = ()


def read_tools(fields: Fields) -> Wish:
    """`tools` and `tool_choice`. Tools of OpenAI's own, such as web_search, are left out: nothing here can run them.

    Raises ApiError for a tool without a name, and a choice that is no tool.
    """
    entries = fields.objects("tools")
    if len(entries) > MAX_TOOLS:
        raise ApiError(f"a request has at most {MAX_TOOLS} tools; got {len(entries)}", param="tools")
    tools = tuple(_tool(entry) for entry in entries if entry.get("type") in (None, "function"))
    choice = fields.get("tool_choice")
    if choice is None or choice == "auto":
        return Wish(tools)
    if choice == "none":
        return Wish()
    if choice == "required":
        if not tools:
            raise ApiError("tool_choice is required, and there are no tools", param="tool_choice")
        return Wish(tools, tools)
    wanted = fields.fields("tool_choice") if isinstance(choice, dict) else None
    name = (wanted.fields("function").text("name") or wanted.text("name")) if wanted else ""
    chosen = tuple(tool for tool in tools if tool.name == name)
    if not chosen:
        raise ApiError("tool_choice must be none, auto, required, or name one of the tools", param="tool_choice")
    return Wish(tools, chosen[:1])


def _tool(entry: Fields) -> Tool:
    function = entry.fields("function") if entry.get("function") is not None else entry  # /v1/responses has them without the inner object
    name = function.text("name")
    if not 0 < len(name) <= 128:
        raise ApiError("a tool has a name of 1 to 128 characters", param=f"{function.where}name")
    return Tool(name, function.text("description"), function.fields("parameters").values)


def described(tools: Sequence[Tool]) -> str:
    """For the system text of a template that does not know tools."""
    lines = "\n".join(json.dumps(tool.as_openai["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions, one JSON object a line:\n{lines}\n"
        f'To call one, write {CALL_OPEN}{{"name": NAME, "arguments": {{...}}}}{CALL_CLOSE} and nothing else. '
        f"The result comes in {RESULT_OPEN}...{RESULT_CLOSE}."
    )


def without_tools(messages: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The messages for such a template: tools in the system text, calls and results as text."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        text = message["content"]
        calls = [call_text(each["function"]["name"], each["function"]["arguments"]) for each in message.get("tool_calls", ())]
        if message["role"] in ("tool", "function"):
            plain.append({"role": "user", "content": f"{RESULT_OPEN}{text}{RESULT_CLOSE}"})
        else:
            plain.append({"role": message["role"], "content": "\n".join([*([text] if text else []), *calls])})
    if tools:
        known = described(tools)
        if plain and plain[0]["role"] == "system":
            plain[0] = {"role": "system", "content": f"{plain[0]['content']}\n{known}"}
        else:
            plain.insert(0, {"role": "system", "content": known})
    return plain


def call_text(name: str, arguments: Any) -> str:
    return f"{CALL_OPEN}{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}{CALL_CLOSE}"


def new_call(name: str, arguments: Any) -> dict[str, Any]:
    """As OpenAI has it: the arguments are a string with JSON."""
    text = json.dumps(arguments, ensure_ascii=False)
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": text}}


@dataclass
class CallSplit:
    """Text a piece at a time to words and calls. What may be the beginning of a call is held back; a call that is no JSON is words."""

    names: frozenset[str] = frozenset()
    calls: list[dict[str, Any]] = field(default_factory=list)
    _held: str = ""

    def push(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """-> words that are known now, and calls that are complete now."""
        self._held += text
        words, calls = "", []
        while True:
            before, opened, after = self._held.partition(CALL_OPEN)
            inside, closed, rest = after.partition(CALL_CLOSE)
            if not opened:
                known = before.removesuffix(beginning_at_end(before, CALL_OPEN))
                words, self._held = words + known, before[len(known) :]
                break
            words, self._held = words + before, self._held[len(before) :]
            if not closed:
                break
            call = self._call(inside)
            words += "" if call else f"{opened}{inside}{closed}"
            calls += [call] if call else []
            self._held = rest
        self.calls += calls
        return words, calls

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """What is still held back. A call that only its end is missing from is a call."""
        held, self._held = self._held, ""
        if held.startswith(CALL_OPEN) and (call := self._call(held.removeprefix(CALL_OPEN))):
            self.calls.append(call)
            return "", [call]
        return held, []

    def _call(self, text: str) -> dict[str, Any] | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] not in self.names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        return new_call(value["name"], arguments) if isinstance(arguments, dict) else None

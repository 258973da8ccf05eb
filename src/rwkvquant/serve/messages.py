"""The messages of a chat request: content as a string, as parts, or null; the roles of OpenAI."""

from __future__ import annotations

import json
from typing import Any

from rwkvquant.errors import RwkvQuantError
from rwkvquant.runtime.tokenizer_base import utf8
from rwkvquant.serve.body import Fields, shown
from rwkvquant.serve.errors import ApiError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")
MAX_MESSAGES = 10_000


def read_messages(fields: Fields, name: str = "messages") -> list[dict[str, Any]]:
    """[{"role", "content"}], content a string. `developer` is `system`. Raises ApiError for anything else."""
    messages = fields.objects(name, least=1)
    if len(messages) > MAX_MESSAGES:
        raise ApiError(f"a request has at most {MAX_MESSAGES} messages; got {len(messages)}", param=name)
    return [_message(each) for each in messages]


def _message(fields: Fields) -> dict[str, Any]:
    if fields.get("role") is None:
        raise ApiError(f"each message has a role, one of {', '.join(ROLES)}; {fields.where[:-1]} has none", param=f"{fields.where}role")
    role = fields.choice("role", ROLES, "user")
    message: dict[str, Any] = {
        "role": "system" if role == "developer" else role,
        "content": content(fields, optional=role == "assistant"),
    }
    if role == "assistant" and fields.get("tool_calls"):
        message["tool_calls"] = [_call(each) for each in fields.objects("tool_calls")]
    if role in ("tool", "function"):
        message |= {name: checked(fields.text(name), f"{fields.where}{name}") for name in ("tool_call_id", "name") if fields.get(name)}
    return message


def _call(fields: Fields) -> dict[str, Any]:
    function = fields.fields("function")
    return read_call(function, function.get("arguments"), fields.text("id"))


def read_call(function: Fields, text: Any, name_of_call: str) -> dict[str, Any]:
    """A call that the model made earlier. Its arguments are a string with JSON; templates get them as they are meant."""
    name = function.text("name")
    try:
        arguments = json.loads(text) if isinstance(text, str) and text.strip() else text or {}
    except (ValueError, RecursionError):
        arguments = text  # what the model wrote, although it is no JSON
    for part in (name, name_of_call, json.dumps(arguments, ensure_ascii=False)):
        checked(part, function.where[:-1])
    return {"id": name_of_call, "type": "function", "function": {"name": name, "arguments": arguments}}


def content(fields: Fields, name: str = "content", optional: bool = False) -> str:
    """Text of a string or of parts, which are joined. `optional`: null is an empty text."""
    value = fields.get(name)
    if isinstance(value, str):
        return checked(value, f"{fields.where}{name}")
    if value is None and optional:
        return ""
    if not isinstance(value, list):
        raise fields.error(name, "must be a string or a list of parts")
    texts = []
    for index, part in enumerate(value):
        where = f"{fields.where}{name}[{index}]"
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, dict):
            raise ApiError(f"{where} must be an object; got {shown(part)}", param=where)
        kind = part.get("type", "text")
        if kind not in TEXT_PARTS:
            raise ApiError(f"this model reads text only; {where} is of type {shown(kind)}", param=where)
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise ApiError(f"{where}.text must be a string; got {shown(text)}", param=where)
        texts.append(checked(text, where))
    return "".join(texts)


def checked(text: str, param: str) -> str:
    """Raises ApiError for half a surrogate pair."""
    try:
        utf8(text)
    except RwkvQuantError as error:
        raise ApiError(str(error), param=param) from None
    return text

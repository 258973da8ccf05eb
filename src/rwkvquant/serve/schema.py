"""The paths as an OpenAPI document, for tools that make requests from one: `/openapi.json`. docs/server.md has them for people.

Requests may have more fields: those of OpenAI that are not here are ignored.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": ["string", "null"]}
FLAG: Schema = {"type": ["boolean", "null"]}
OBJECT: Schema = {"type": ["object", "null"]}
TOKEN: Schema = {"type": "integer", "minimum": 0}
TOKENS: Schema = {"type": "array", "items": TOKEN}


def number(low: float, high: float) -> Schema:
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def whole(low: int, high: int = 2**31 - 1) -> Schema:
    return {"type": ["integer", "null"], "minimum": low, "maximum": high}


def body(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


SAMPLING: Schema = {
    "temperature": number(0, 100),
    "top_p": number(0, 1),
    "top_k": whole(-1),
    "min_p": number(0, 1),
    "seed": whole(-(2**63), 2**63 - 1),
    "presence_penalty": number(-100, 100),
    "frequency_penalty": number(-100, 100),
    "penalty_decay": number(0, 1),
    "logit_bias": OBJECT | {"propertyNames": {"pattern": "^[0-9]{1,5}$"}, "additionalProperties": {"type": "number"}},
    "stop": {"anyOf": [TEXT, {"type": "array", "maxItems": 16, "items": {"type": "string", "maxLength": 1000}}]},
    "state_id": TEXT,
}
STREAM: Schema = {"stream": FLAG, "stream_options": body({"include_usage": FLAG}) | {"type": ["object", "null"]}}
PART: Schema = body({"type": {"enum": ["text", "input_text", "output_text"]}, "text": {"type": "string"}}, "type", "text")
CONTENT: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": PART}]}
MESSAGE: Schema = body({"role": {"enum": ["system", "developer", "user", "assistant", "tool"]}, "content": CONTENT}, "role", "content")
FUNCTION: Schema = body({"name": {"type": "string", "minLength": 1}, "description": TEXT, "parameters": OBJECT}, "name")
TOOLS: Schema = {
    "tools": {"type": ["array", "null"], "items": body({"type": {"const": "function"}, "function": FUNCTION}, "type", "function")},
    "tool_choice": {"enum": ["none", "auto", "required", None]},
}
FORMAT: Schema = body(
    {
        "type": {"enum": ["text", "json_object", "json_schema"]},
        "json_schema": body({"name": TEXT, "schema": OBJECT}),
    },
    "type",
) | {"type": ["object", "null"]}

CHAT = body(
    {
        "messages": {"type": "array", "minItems": 1, "items": MESSAGE},
        "max_tokens": whole(1),
        "max_completion_tokens": whole(1),
        "n": whole(1, 64),
        "logprobs": FLAG,
        "top_logprobs": whole(0, 20),
        "response_format": FORMAT,
        "session_id": TEXT,
        "think": TEXT,
        "reasoning_effort": TEXT,
        **TOOLS,
        **SAMPLING,
        **STREAM,
    },
    "messages",
)
COMPLETION = body(
    {
        "prompt": {
            "anyOf": [TEXT, {"type": "array", "minItems": 1, "items": {"type": "string"}}, TOKENS, {"type": "array", "items": TOKENS}]
        },
        "max_tokens": whole(0),
        "n": whole(1, 64),
        "logprobs": whole(0, 20),
        "echo": FLAG,
        "session_id": TEXT,
        **SAMPLING,
        **STREAM,
    }
)
RESPONSES = body(
    {
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": MESSAGE}]},
        "instructions": TEXT,
        "max_output_tokens": whole(1),
        "temperature": number(0, 100),
        "top_p": number(0, 1),
        "stream": FLAG,
    },
    "input",
)
ERROR = body(
    {
        "error": body(
            {"message": {"type": "string"}, "type": {"type": "string"}, "param": TEXT, "code": TEXT}, "message", "type", "param", "code"
        )
    },
    "error",
)
USAGE = {"type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens"]}
CHOICES = {"type": "array", "items": {"type": "object", "required": ["index", "finish_reason", "logprobs"]}}
ANSWER = body({"id": {"type": "string"}, "choices": CHOICES, "usage": USAGE}, "id", "object", "created", "model", "choices", "usage")
RESPONSE = body({"id": {"type": "string"}, "output": {"type": "array"}}, "id", "object", "status", "output", "usage")
LIST = body({"object": {"const": "list"}, "data": {"type": "array"}}, "object", "data")


def path(method: str, about: str, answer: Schema, request: Schema | None = None, streams: bool = False) -> Schema:
    kinds: Schema = {"application/json": {"schema": answer}}
    if streams:
        kinds["text/event-stream"] = {"schema": body({"data": {"type": "string"}}, "data")}  # of each event
    refused = {"description": "What was wrong, in one sentence", "content": {"application/json": {"schema": ERROR}}}
    operation: Schema = {"summary": about, "responses": {"200": {"description": "The answer", "content": kinds}, "default": refused}}
    if request is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": request}}}
    return {method: operation}


def document(version: str) -> Schema:
    """The paths that take and give JSON, but for uploads of states."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "rwkvquant serve", "version": version or "0"},
        "security": [{}, {"key": []}],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/v1/chat/completions": path("post", "An answer in a conversation", ANSWER, CHAT, streams=True),
            "/v1/completions": path("post", "Continues or scores texts", ANSWER, COMPLETION, streams=True),
            "/v1/responses": path("post", "An answer, as Codex asks for it", RESPONSE, RESPONSES, streams=True),
            "/v1/models": path("get", "The model", LIST),
            "/v1/state/list": path("get", "Uploaded states, and sessions", LIST),
            "/v1/state/delete": path("post", "Forgets one", body({}, "deleted"), body({"state_id": TEXT, "session_id": TEXT})),
            "/tokenize": path("post", "Text to tokens", body({"tokens": TOKENS}, "tokens"), body({"content": {"type": "string"}})),
            "/detokenize": path(
                "post", "Tokens to text", body({"content": {"type": "string"}}, "content"), body({"tokens": TOKENS}, "tokens")
            ),
            "/health": path("get", "Whether it answers", body({"status": {"const": "ok"}}, "status")),
            "/props": path("get", "Sizes, bits, limits, template", body({"model": {"type": "string"}}, "model", "slots", "limits")),
        },
    }

"""/v1/responses, with the official client and with a request of the fields that Codex sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from tests.serve.servers import Server
from tests.serve.test_tools import PERSON, WEATHER

SHELL = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "string", "maxLength": 12}},
        "required": ["command"],
        "additionalProperties": False,
    },
}
# Written after the documentation of the Codex CLI, not recorded: the fields of a request in the middle of a task.
CODEX: dict[str, Any] = {
    "model": "gpt-5-codex",
    "instructions": "You are a coding agent running in a terminal.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>read only</permissions>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I look."}], "content": None, "encrypted_content": "gAAA"},
        {"type": "function_call", "name": "shell", "arguments": '{"command":"ls"}', "call_id": "call_9"},
        {"type": "function_call_output", "call_id": "call_9", "output": "a.py\nb.py"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two files."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Count them"}]},
    ],
    "tools": [SHELL, {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}}, {"type": "web_search"}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0198-aaaa",
    "client_metadata": {"session": "1"},
    "text": {"verbosity": "medium"},
    "max_output_tokens": 30,
    "temperature": 0,
}


def test_a_request_of_codex_is_answered_as_it_reads_answers(server: Server) -> None:
    """Each event has its type inside; the text is that of its pieces; the last event is the response."""
    events = server.events("/v1/responses", CODEX, headers={"session-id": "1", "originator": "codex_cli_rs"})
    names = [event["type"] for event in events]
    assert names[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert names[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert names[-1] in ("response.completed", "response.incomplete")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]["response"]
    (item,) = last["output"]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert item["content"][0]["text"] == text and item["role"] == "assistant" and item["status"] == "completed"
    assert last["usage"]["output_tokens"] <= 30 and last["usage"]["input_tokens"] > 100 and last["model"] == "rwkv7-tiny-rtn4"
    again = server.events("/v1/responses", CODEX)
    assert again[-1]["response"]["output"][0]["content"] == item["content"]
    assert again[-1]["response"]["usage"]["input_tokens_details"]["cached_tokens"] == last["usage"]["input_tokens"]
    _, whole, _ = server.ask("/v1/responses", CODEX | {"stream": False})
    assert whole["output"][0]["content"] == item["content"] and whole["status"] == last["status"]


def test_a_call_that_must_be_made_is_an_item(server: Server) -> None:
    events = server.events("/v1/responses", CODEX | {"tool_choice": "required", "max_output_tokens": 300, "temperature": 1, "seed": 2})
    (item,) = events[-1]["response"]["output"]
    assert item["type"] == "function_call" and item["name"] == "shell" and item["call_id"].startswith("call_")
    assert set(json.loads(item["arguments"])) >= {"command"} and events[-1]["type"] == "response.completed"
    done = next(event for event in events if event["type"] == "response.output_item.done")
    assert done["item"] == item


def test_the_official_client_reads_it(server: Server) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    options: dict[str, Any] = {"model": "x", "input": "Where is the ship?", "max_output_tokens": 10, "temperature": 0}
    whole = client.responses.create(**options)
    assert whole.output_text and whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    with client.responses.stream(**options) as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.incomplete" and events[-1].response.output_text == whole.output_text
    chat = server.chat("Where is the ship?", max_tokens=10)
    assert chat["choices"][0]["message"]["content"] == whole.output_text
    asked = {**options, "max_output_tokens": 200, "text": {"format": {"type": "json_schema", "name": "p", "schema": PERSON}}}
    assert set(json.loads(client.responses.create(**asked).output_text)) == {"name", "age"}
    scored = client.responses.create(**options, include=["message.output_text.logprobs"], top_logprobs=2)
    part: Any = scored.output[0]
    assert len(part.content[0].logprobs) == 10 and len(part.content[0].logprobs[0].top_logprobs) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ],
)
def test_a_wrong_field_is_named(server: Server, fields: dict[str, Any], param: str) -> None:
    status, answer, _ = server.ask("/v1/responses", {"input": "x", **fields})
    assert status == 400 and answer["error"]["param"] == param, answer


def test_tools_of_chat_shape_are_taken_too(server: Server) -> None:
    _, answer, _ = server.ask("/v1/responses", {"input": "Rain?", "tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 200})
    assert answer["output"][0]["name"] == "weather"

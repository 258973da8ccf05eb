"""LiteLLM reads whole answers, streams, calls of tools and errors as the server means them."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest

from tests.serve.servers import STORY, Server

MESSAGES = [{"role": "user", "content": "Where is the ship?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}
litellm.telemetry = False


@pytest.fixture
def options(server: Server) -> dict[str, Any]:
    return {"model": "openai/rwkv", "api_base": f"{server.url}/v1", "api_key": "none", "num_retries": 0, "temperature": 0}


def test_an_answer_is_that_of_the_server_whole_and_streamed(server: Server, options: dict[str, Any]) -> None:
    wanted = server.chat(MESSAGES)
    whole: Any = litellm.completion(**options, messages=MESSAGES, max_tokens=8)
    assert whole.choices[0].message.content == wanted["choices"][0]["message"]["content"]
    assert whole.choices[0].finish_reason == wanted["choices"][0]["finish_reason"] == "length"
    assert whole.usage.completion_tokens == 8 and whole.usage.prompt_tokens == wanted["usage"]["prompt_tokens"]
    asked = {**options, "messages": MESSAGES, "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}}
    chunks: list[Any] = list(litellm.completion(**asked))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert next(chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)) == 8


def test_logprobs_are_read(options: dict[str, Any]) -> None:
    answer: Any = litellm.completion(**options, messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2)
    scored = answer.choices[0].logprobs.content
    assert len(scored) == 3 and all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in scored)


def test_a_call_of_a_tool_is_read(options: dict[str, Any]) -> None:
    called: Any = litellm.completion(**options, messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=100)
    (call,) = called.choices[0].message.tool_calls
    assert call.function.name == "f" and call.id and called.choices[0].finish_reason == "tool_calls"


def test_a_text_is_continued(server: Server, options: dict[str, Any]) -> None:
    answer: Any = litellm.text_completion(**options | {"model": "text-completion-openai/rwkv"}, prompt=STORY, max_tokens=8)
    assert answer.choices[0].text == server.text(STORY, max_tokens=8)


def test_an_error_is_the_one_of_its_status(options: dict[str, Any]) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature must be a number"):
        litellm.completion(**options | {"temperature": -1}, messages=MESSAGES)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**options | {"api_base": f"{options['api_base']}/nowhere"}, messages=MESSAGES)


def test_many_at_once_get_the_same_answer(options: dict[str, Any]) -> None:
    async def ask() -> list[Any]:
        return await asyncio.gather(*(litellm.acompletion(**options, messages=MESSAGES, max_tokens=8) for _ in range(8)))

    assert len({answer.choices[0].message.content for answer in asyncio.run(ask())}) == 1

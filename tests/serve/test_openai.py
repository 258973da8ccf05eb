"""The official client of OpenAI, against a real server."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI

from rwkvquant import Model
from tests.serve.servers import STORY, Server


@pytest.fixture
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_chat_whole_and_streamed_is_the_same(client: OpenAI) -> None:
    messages = [{"role": "system", "content": "You are a sailor."}, {"role": "user", "content": "Where is the ship?"}]
    options = {"model": "any", "messages": messages, "max_tokens": 20, "seed": 7, "temperature": 1.0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**options)  # type: ignore[call-overload]
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens <= 20 and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    text, logprobs, chunks = "", [], []
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):  # type: ignore[call-overload]
        chunks.append(chunk)
        for part in chunk.choices:
            text += part.delta.content or ""
            logprobs += part.logprobs.content if part.logprobs else []
    assert text == choice.message.content and logprobs == choice.logprobs.content
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [choice.finish_reason]
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(len(each.top_logprobs) == 2 and each.top_logprobs[0].logprob >= each.logprob - 1e-9 for each in logprobs)


def test_a_completion_is_what_the_model_writes(client: OpenAI, model: Model) -> None:
    for seed, temperature in ((1, 0.0), (2, 0.9), (-5, 1.3)):
        answer = client.completions.create(model="x", prompt=STORY, max_tokens=16, temperature=temperature, seed=seed, top_p=0.8)
        wanted = model.generate(STORY, 16, temperature=temperature, seed=seed % (1 << 64), top_p=0.8)
        assert answer.choices[0].text == wanted.text and answer.choices[0].finish_reason == wanted.finish_reason
    pieces = client.completions.create(model="x", prompt=STORY, max_tokens=16, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == model.generate(STORY, 16, temperature=0).text


def test_models_are_listed(client: OpenAI) -> None:
    (only,) = client.models.list().data
    assert client.models.retrieve(only.id).id == only.id == "rwkv7-tiny-rtn4"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-5")
    assert error.value.code == "model_not_found"


def test_errors_are_those_of_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="not allowed to generate embeddings"):
        client.embeddings.create(model="x", input="a text")
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": "hi"}], temperature=-1)
    assert error.value.param == "temperature" and error.value.type == "invalid_request_error"


def test_several_choices_have_their_own_text(client: OpenAI) -> None:
    options = {"model": "x", "prompt": STORY, "max_tokens": 12, "temperature": 1.5, "top_p": 1.0}
    answer = client.completions.create(**options, n=3, seed=5)  # type: ignore[call-overload]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len({choice.text for choice in answer.choices}) == 3
    assert [client.completions.create(**options, seed=seed).choices[0].text for seed in (5, 6, 7)] == [c.text for c in answer.choices]  # type: ignore[call-overload]
    texts = ["", "", ""]
    for chunk in client.completions.create(**options, n=3, seed=5, stream=True):  # type: ignore[call-overload]
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in answer.choices]

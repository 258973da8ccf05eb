"""/v1/completions: prompts of every kind, stop strings, and scores as evaluation tools read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkvquant import Model
from tests.serve.servers import STORY, Server


def log_probabilities(model: Model, tokens: list[int]) -> tuple[list[float], list[bool], np.ndarray]:
    """Of each token after those before it, and whether it is the likeliest; and the rows."""
    logits, _ = model.forward([0, *tokens], logits="all")
    rows = logits.astype(np.float64)
    rows -= rows.max(-1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(-1, keepdims=True))
    return [rows[i, t] for i, t in enumerate(tokens)], [int(rows[i].argmax()) == t for i, t in enumerate(tokens)], rows


def test_every_kind_of_prompt_gives_the_same_text(server: Server, model: Model) -> None:
    tokens = model.tokenizer.encode(STORY)
    wanted = model.generate(STORY, 10, temperature=0).text
    for prompt in (STORY, [STORY], tokens, [tokens]):
        assert server.text(prompt, max_tokens=10) == wanted
    answer = server.complete([STORY, "The sea", STORY], max_tokens=10, n=2)
    other = model.generate("The sea", 10, temperature=0).text
    assert [choice["text"] for choice in answer["choices"]] == [wanted, wanted, other, other, wanted, wanted]
    assert answer["usage"]["prompt_tokens"] == 2 * len(tokens) + len(model.tokenizer.encode("The sea"))
    assert server.text(max_tokens=0) == "" and server.text("", max_tokens=3) == model.generate("", 3, temperature=0).text


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_an_echoed_prompt_is_scored_as_by_the_model(server: Server, model: Model, max_tokens: int, as_tokens: bool) -> None:
    """As lm-eval asks with its local-completions: the scores of the tokens after the context, without the one that was written."""
    text = STORY + ", é 你好 that the river was deep"
    tokens = model.tokenizer.encode(text)
    answer = server.complete(tokens if as_tokens else text, max_tokens=max_tokens, echo=True, logprobs=1)
    logprobs = answer["choices"][0]["logprobs"]
    wanted, greedy, _ = log_probabilities(model, tokens)
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == len(tokens) + max_tokens
    np.testing.assert_allclose(logprobs["token_logprobs"][1 : len(tokens)], wanted[1:], atol=1e-6)
    for index in range(1, len(tokens)):
        assert (logprobs["token_logprobs"][index] == max(logprobs["top_logprobs"][index].values())) == greedy[index]
    own = answer["choices"][0]["text"]
    assert own == text + model.generate(text, max_tokens, temperature=0).text
    for name, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert name.startswith("bytes:") or own[offset:].startswith(name)


def test_scores_do_not_depend_on_what_is_cached(server: Server) -> None:
    text = "A sailor came home from the sea, and nobody knew him any more"
    first = server.complete(text, max_tokens=1, echo=True, logprobs=2)
    server.complete(text, max_tokens=4)
    assert server.complete(text, max_tokens=1, echo=True, logprobs=2)["choices"] == first["choices"]


def test_a_score_is_there_for_an_end_of_text_too(server: Server) -> None:
    """Tools count on one token after the prompt."""
    answer = server.complete("The end", max_tokens=1, echo=True, logprobs=1, logit_bias={"0": 100})
    (*_, last), reason = answer["choices"][0]["logprobs"]["tokens"], answer["choices"][0]["finish_reason"]
    assert last == "token:0" and reason == "stop" and answer["choices"][0]["text"] == "The end"


@pytest.mark.parametrize("stop", ["\n", ["said", "the"], "old m", ["zzz"], ["e", "an"], [". ", ',"']])
def test_stop_strings_end_a_text_wherever_the_tokens_are_cut(server: Server, model: Model, stop: Any) -> None:
    wanted = model.generate(STORY, 40, temperature=0, stop=stop)
    answer = server.complete(max_tokens=40, stop=stop, logprobs=0)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (wanted.text, wanted.finish_reason)
    shown = "".join(choice["logprobs"]["tokens"])
    assert shown.startswith(choice["text"]) and len(choice["logprobs"]["tokens"]) <= len(wanted.tokens)
    streamed = server.events("/v1/completions", {"prompt": STORY, "temperature": 0, "max_tokens": 40, "stop": stop, "logprobs": 0})
    parts = [each["choices"][0] for each in streamed[:-1]]
    assert "".join(part["text"] for part in parts) == choice["text"] and parts[-1]["finish_reason"] == choice["finish_reason"]
    assert [token for part in parts for token in part["logprobs"]["tokens"]] == choice["logprobs"]["tokens"]


def test_a_bias_forbids_or_forces_a_token(server: Server, model: Model) -> None:
    likely = model.generate(STORY, 1, temperature=0).tokens[0]
    tokens = server.complete(max_tokens=5, logprobs=0, logit_bias={str(likely): -100})["choices"][0]["logprobs"]["tokens"]
    assert model.tokenizer.decode([likely]) not in tokens
    forced = model.tokenizer.encode(" sea")[0]
    assert server.text(max_tokens=3, logit_bias={str(forced): 100}) == model.tokenizer.decode([forced] * 3)


def test_penalties_are_those_of_the_sampler(server: Server, model: Model) -> None:
    for penalties in ({"presence_penalty": 1.5}, {"frequency_penalty": 0.7}):
        wanted = model.generate(STORY, 30, temperature=0, penalty_decay=1.0, **penalties)  # type: ignore[arg-type]
        assert server.text(max_tokens=30, **penalties) == wanted.text != server.text(max_tokens=30)


def test_interleaved_aborted_and_edited_texts_leave_nothing(server: Server, model: Model) -> None:
    """Answers of a busy server, in any order, are those of a fresh model."""
    prompts = [STORY, STORY + ": no", STORY[:20], STORY + " that", STORY]
    for round_ in range(2):
        for index, prompt in enumerate(prompts):
            opened = server.begin("/v1/completions", {"prompt": prompt + "!", "max_tokens": 2000, "stream": True})
            if index % 2:
                opened.recv(100)
            opened.close()
            answer = server.complete(prompt, max_tokens=12, seed=index, temperature=0.9, top_p=0.9)
            assert answer["choices"][0]["text"] == model.generate(prompt, 12, seed=index, temperature=0.9, top_p=0.9).text, round_

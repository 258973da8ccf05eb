"""Paths, errors, keys, limits, sockets and signals."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from rwkvquant import Model, inspect
from rwkvquant.serve.app import GETS, POSTS
from rwkvquant.serve.schema import document
from rwkvquant.serve.sending import Answer
from rwkvquant.serve.service import Stream
from tests.serve.servers import MODEL, STORY, Server, serving


@pytest.mark.parametrize("path", ["/v1", "/v1/chat", "/v1/chat/completions/x", "/v1/images/generations", "/%00", "/v1/models/none"])
def test_an_unknown_path_is_a_json_error(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        status, answer, _ = server.ask(path, {} if method == "POST" else None, method)
        assert status in (404, 405) and answer["error"]["message"] and set(answer["error"]) == {"message", "type", "param", "code"}


def test_a_wrong_method_is_a_json_error(server: Server) -> None:
    status, answer, headers = server.ask("/v1/completions")
    assert status == 405 and headers["allow"] == "POST" and "does not take GET" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {}, "messages"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"content": "x"}]}, "messages[0].role"),
        ("chat/completions", {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ("chat/completions", {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ("chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": True}}, "stream_options"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 0}, "n"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        ("completions", {"prompt": {}}, "prompt"),
        ("completions", {"prompt": [1, "a"]}, "prompt"),
        ("completions", {"prompt": [99999]}, "prompt"),
        ("completions", {"prompt": [True]}, "prompt"),
        ("completions", {"prompt": "x", "max_tokens": -1}, "max_tokens"),
        ("completions", {"prompt": "x", "temperature": "hot"}, "temperature"),
        ("completions", {"prompt": "x", "top_p": 1.5}, "top_p"),
        ("completions", {"prompt": "x", "seed": 1.5}, "seed"),
        ("completions", {"prompt": "x", "stop": [1]}, "stop"),
        ("completions", {"prompt": "x", "stop": ["x"] * 99}, "stop"),
        ("completions", {"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"),
        ("completions", {"prompt": "x", "logit_bias": {"99999999": 1}}, "logit_bias"),
        ("completions", {"prompt": "x", "logprobs": 99}, "logprobs"),
        ("completions", {"prompt": "x", "best_of": 5}, "best_of"),
        ("completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("completions", {"prompt": "x", "stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_field_is_named(server: Server, path: str, body: Any, param: str) -> None:
    status, answer, _ = server.ask(f"/v1/{path}", body)
    assert status == 400 and answer["error"]["param"] == param and answer["error"]["type"] == "invalid_request_error", answer
    assert answer["error"]["message"].isascii() is not None


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"[" * 100_000, b'{"prompt":' + b"9" * 10_000 + b"}", b'{"temperature":NaN}']
)
def test_a_body_that_is_no_object_is_a_json_error(server: Server, raw: bytes) -> None:
    status, answer, _ = server.ask("/v1/completions", raw)
    assert status == 400 and answer["error"]["message"]


def test_fields_that_are_null_or_unknown_are_ignored(server: Server, model: Model) -> None:
    extra = {"stop": None, "n": None, "logit_bias": None, "user": "me", "metadata": {"a": 1}, "stream": None, "seed": None, "suffix": None}
    assert server.text(max_tokens=5, **extra) == model.generate(STORY, 5, temperature=0).text


def test_content_as_parts_and_roles_of_openai(server: Server) -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the ship?"}]
    plain = server.chat([{"role": "system", "content": "A sailor."}, {"role": "user", "content": "Where is the ship?"}])
    assert server.chat([{"role": "developer", "content": "A sailor."}, {"role": "user", "content": parts}])["choices"] == plain["choices"]
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "user", "content": "b"}]
    assert server.chat(history)["choices"][0]["finish_reason"] == "length"


def test_the_schema_has_every_path_that_takes_or_gives_json(server: Server) -> None:
    status, schema, _ = server.ask("/openapi.json")
    others = {"/v1/embeddings", "/models", "/openapi.json"}  # refused; the same as /v1/models; itself
    assert status == 200 and set(schema["paths"]) | others == {*POSTS, *GETS}
    assert schema == document(schema["info"]["version"])


def test_a_request_of_open_webui_is_answered(server: Server) -> None:
    """A body written after its source, not recorded: what its backend sends, with the headers that it can be told to add."""
    assert server.ask("/v1/models")[1]["data"][0]["id"] == "rwkv7-tiny-rtn4"
    body = {
        "model": "rwkv7-tiny-rtn4",
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.8,
        "max_tokens": 5,
        "frequency_penalty": 0,
        "stop": [],
        "logit_bias": None,
        "user": {"name": "me", "id": "1"},
    }
    events = server.events("/v1/chat/completions", body, headers={"X-OpenWebUI-Chat-Id": "1", "X-OpenWebUI-User-Name": "me"})
    assert (
        events[-1] == "[DONE]" and events[-2]["usage"]["completion_tokens"] <= 5 and events[0]["choices"][0]["delta"]["role"] == "assistant"
    )


def test_tokens_go_there_and_back(server: Server, model: Model) -> None:
    _, answer, _ = server.ask("/tokenize", {"content": STORY})
    assert answer["tokens"] == model.tokenizer.encode(STORY)
    assert server.ask("/detokenize", {"tokens": answer["tokens"]})[1]["content"] == STORY
    assert server.ask("/detokenize", {"tokens": "x"})[0] == 400
    _, chat, _ = server.ask("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
    assert model.tokenizer.decode(chat["tokens"]) == "User: Hi\n\nAssistant:"


def test_properties_and_metrics_are_there(server: Server) -> None:
    server.text(max_tokens=2)
    _, props, _ = server.ask("/props")
    assert props["slots"] == 4 and props["arch"] == "rwkv7" and props["cache"]["max_bytes"] == 1_024_000_000
    assert props["file"] == {
        "name": MODEL.name,
        "bytes": MODEL.stat().st_size,
        "bits_per_weight": inspect(MODEL).bits_per_weight,
        "bits_per_weight_file": inspect(MODEL).bits_per_weight_file,
    }
    metrics = server.metrics()
    assert metrics["written_tokens_total"] >= 2 and metrics["running"] == 0
    assert any(name.startswith('requests_total{path="/v1/completions",status="200"}') for name in metrics)
    assert server.ask("/health")[:2] == (200, {"status": "ok"})


def test_64_clients_get_the_answers_of_one(server: Server, model: Model) -> None:
    """On 4 slots, half of them streams; some never read what they asked for."""
    idle = [server.begin("/v1/completions", {"prompt": STORY, "max_tokens": 4000, "stream": True}) for _ in range(8)]
    answers: dict[int, str] = {}

    def one(number: int) -> None:
        body = {"prompt": STORY[: 10 + number], "max_tokens": 8, "temperature": 0.8, "seed": number, "top_p": 0.9}
        if number % 2:
            answers[number] = "".join(e["choices"][0]["text"] for e in server.events("/v1/completions", body)[:-1])
        else:
            answers[number] = server.ask("/v1/completions", body)[1]["choices"][0]["text"]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for opened in idle:
        opened.close()
    assert answers == {n: model.generate(STORY[: 10 + n], 8, temperature=0.8, seed=n, top_p=0.9).text for n in range(64)}
    settle(server)


def settle(server: Server) -> None:
    """Wait until no answer runs."""
    for _ in range(600):
        if server.metrics()["running"] == server.metrics()["waiting"] == 0:
            return
        time.sleep(0.02)
    raise AssertionError(server.metrics())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_leaves_frees_its_slot(server: Server, stream: bool, how: str) -> None:
    settle(server)
    opened = server.begin(
        "/v1/completions", {"prompt": STORY, "max_tokens": 100_000, "temperature": 1, "stream": stream, "logit_bias": {"0": -100}}
    )
    if stream:
        opened.recv(10)
    if how == "half":
        opened.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        opened.close()
    settle(server)
    opened.close()


def test_an_unfinished_request_and_garbage_do_no_harm(server: Server) -> None:
    for raw in (
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        b"\x00\xff" * 50,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as opened:
            opened.sendall(raw)
            opened.shutdown(socket.SHUT_WR)
            opened.settimeout(10)
            while opened.recv(1000):
                pass
    assert server.ask("/health")[0] == 200


def test_pages_of_other_sites_and_other_names_are_refused(server: Server) -> None:
    """A page in a browser sends Origin; a name that was bent to this machine is in Host."""
    for headers in (
        {"origin": "https://evil.example"},
        {"host": "evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ):
        status, answer, got = server.ask("/v1/models", headers=headers)
        assert status == 403 and answer["error"]["message"] and "access-control-allow-origin" not in got
    assert server.ask("/v1/models", headers={"origin": server.url})[0] == 200
    assert server.ask("/v1/models", headers={"host": "localhost:8000"})[0] == 200


def test_a_key_guards_every_path_but_health() -> None:
    options = (
        "--api-key",
        "secret",
        "--api-key",
        "other",
        "--cors-origin",
        "https://ours.example",
        "--max-body-mb",
        "1",
        "--max-prompt",
        "50",
    )
    with serving(*options) as server:
        for path in ("/v1/models", "/metrics", "/props", "/page.html", "/v1/nothing"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer "}, {"authorization": "secret"}):
                status, answer, _ = server.ask(path, headers=headers)
                assert status == 401 and answer["error"]["code"] == "invalid_api_key"
        assert server.ask("/v1/completions", {"prompt": "x"})[0] == 401
        assert server.ask("/health")[0] == 200
        assert server.ask("/")[0] == 200  # the page, which asks for the key
        assert server.ask("/v1/models", headers={"authorization": "Bearer secret"})[0] == 200
        ours = {"origin": "https://ours.example", "authorization": "bearer other"}
        assert server.ask("/v1/models", headers=ours)[2]["access-control-allow-origin"] == "https://ours.example"
        assert server.ask("/v1/models", method="OPTIONS", headers={"origin": "https://ours.example"})[0] in (204, 401)
        status, answer, _ = server.ask("/v1/completions", b'{"prompt": "' + b"x" * (1 << 20) + b'"}', headers=ours)
        assert status == 413 and answer["error"]["code"] == "body_too_large"
        status, answer, _ = server.ask("/v1/completions", {"prompt": "word " * 60}, headers=ours)
        assert status == 400 and answer["error"]["code"] == "context_length_exceeded"


def test_sigterm_lets_answers_finish_and_a_short_grace_ends_them() -> None:
    for grace, code in (("60", 0), ("1", 75)):
        with serving("--grace", grace, "--max-tokens", "100000") as server:
            opened = server.begin(
                "/v1/completions",
                {"prompt": STORY, "max_tokens": 200 if code == 0 else 100_000, "stream": True, "logit_bias": {"0": -100}},
            )
            first = opened.recv(20)
            server.process.send_signal(signal.SIGTERM)
            text = first
            while part := opened.recv(1 << 16):
                text += part
            assert server.process.wait(60) == code, server.said()
            assert (b"data: [DONE]" in text) == (code == 0)
            assert "Traceback" not in server.said()


def test_mistakes_on_the_command_line_are_one_sentence(server: Server) -> None:
    for options, sentence in (
        (["--port", str(server.port)], f"port {server.port} of 127.0.0.1 cannot be used"),
        (["--host", "no such host"], "--host must be"),
        (["--cache-bits", "4"], "--cache-bits must be"),
        (["--api-key", ""], "an API key is"),
        (["--think", "on"], "has no thinking"),
    ):
        command = [sys.executable, "-m", "rwkvquant", "serve", str(MODEL), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_other_addresses_than_loopback_are_warned_of() -> None:
    with serving("--host", "0.0.0.0") as server:
        assert "anyone may use it" in server.said()
    with serving() as server:
        assert "Only programs on this machine" in server.said()


def test_every_answer_is_json_that_python_reads_strictly(server: Server) -> None:
    """Also with characters that end in the middle."""
    body = {"prompt": "é你好", "max_tokens": 20, "temperature": 2, "top_p": 1.0, "seed": 3, "logprobs": 5}
    for event in server.events("/v1/completions", body)[:-1]:
        json.dumps(event, allow_nan=False)


def test_a_client_that_takes_nothing_is_given_up() -> None:
    """And what wrote for it is closed."""
    closed = []

    async def endless() -> Any:
        try:
            while True:
                yield {"text": "x"}
        finally:
            closed.append(True)

    async def work() -> Stream:
        return Stream(endless())

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    asyncio.run(Answer(work(), stall=0.05)({"type": "http"}, never, never))
    assert closed == [True]

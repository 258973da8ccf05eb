"""Uploaded states and sessions: a request gives the answer that the whole text would give."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch

from rwkvquant import Model
from tests.helpers import write_pth
from tests.serve.servers import MODEL, STORY, Server, serving


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Path:
    dims, generator = model.dims, torch.Generator().manual_seed(0)
    shape = (dims.width // dims.head_size, dims.head_size, dims.head_size)
    states = {f"blocks.{layer}.att.time_state": 10 * torch.randn(shape, generator=generator) for layer in range(dims.layers)}
    return write_pth(tmp_path_factory.mktemp("states") / "poet.pth", states)


def form(name: str, raw: bytes) -> tuple[bytes, dict[str, str]]:
    head = f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    return head.encode() + raw + b"\r\n--XX--\r\n", {"content-type": "multipart/form-data; boundary=XX"}


def test_a_tuned_state_is_uploaded_used_and_deleted(server: Server, model: Model, tuned: Path, tmp_path: Path) -> None:
    """As a form, as curl sends it, and as bare bytes; in the body and in a header."""
    body, headers = form("poet.pth", tuned.read_bytes())
    status, answer, _ = server.ask("/v1/state/upload", body, headers=headers)
    assert status == 200 and answer["state_id"] == "poet.pth" and answer["tuned"]
    assert server.ask("/v1/state/upload", body, headers=headers)[0] == 409
    model.forward([0, 7, 9])[1].save(tmp_path / "saved.safetensors")
    raw = (tmp_path / "saved.safetensors").read_bytes()
    assert server.ask("/v1/state/upload?state_id=saved", raw, headers={"content-type": "application/octet-stream"})[1]["tuned"] is False
    assert {each["state_id"] for each in server.ask("/v1/state/list")[1]["data"]} == {"poet.pth", "saved"}

    wanted = model.generate(STORY, 12, temperature=0, state=model.tuned_state(tuned)).text
    plain = server.text(max_tokens=12)
    for _ in range(2):
        assert server.text(max_tokens=12, state_id="poet.pth") == wanted != plain
        assert server.text(max_tokens=12) == plain
    status, answer, _ = server.ask(
        "/v1/completions", {"prompt": STORY, "max_tokens": 12, "temperature": 0}, headers={"X-State-Id": "poet.pth"}
    )
    assert answer["choices"][0]["text"] == wanted
    assert server.ask("/v1/completions", {"prompt": "x", "state_id": "poet.pth"}, headers={"X-State-Id": "saved"})[0] == 400
    for method in ("POST", "DELETE"):
        status, answer, _ = server.ask("/v1/state/delete", {"state_id": "poet.pth"}, method)
        assert (status, answer.get("deleted")) == ((200, True) if method == "POST" else (404, None))
    assert server.ask("/v1/completions", {"prompt": "x", "state_id": "poet.pth"})[1]["error"]["code"] == "state_not_found"
    assert server.ask("/v1/state/upload?state_id=poet.pth", raw, headers={"content-type": "application/octet-stream"})[0] == 200
    assert server.text(max_tokens=12, state_id="poet.pth") != wanted  # another state of that name, and nothing of the first
    for name in ("poet.pth", "saved"):
        server.ask("/v1/state/delete", {"state_id": name})


@pytest.mark.parametrize("raw", [b"", b"PK\3\4 no archive", b"\x80\x02 no pickle", b"x" * 1000, b"\x10\0\0\0\0\0\0\0{}"])
def test_what_is_no_state_is_refused(server: Server, raw: bytes) -> None:
    for body, headers in (form("bad", raw), (raw, {"content-type": "application/octet-stream", "x-state-id": "bad"})):
        status, answer, _ = server.ask("/v1/state/upload", body, headers=headers)
        assert status == 400 and "/tmp" not in answer["error"]["message"], answer
    assert server.ask("/v1/state/upload", b"--XX\r\n", headers={"content-type": "multipart/form-data; boundary=XX"})[0] == 400
    assert server.ask("/v1/state/upload?state_id=..", b"x")[0] == 400


def test_a_session_of_a_chat_is_the_whole_conversation(server: Server) -> None:
    questions = ["Where is the ship?", "And the captain?", "Why?"]
    messages: list[dict[str, str]] = [{"role": "system", "content": "You are a sailor."}]
    for index, question in enumerate(questions):
        new = [*messages, {"role": "user", "content": question}] if not index else [{"role": "user", "content": question}]
        got = server.chat(new, session_id="chat-1", max_tokens=15)
        messages.append({"role": "user", "content": question})
        whole = server.chat(messages, max_tokens=15)
        assert got["choices"] == whole["choices"] and got["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
        assert index == 0 or got["usage"]["prompt_tokens_details"]["cached_tokens"] > 10
        messages.append({"role": "assistant", "content": got["choices"][0]["message"]["content"]})
    assert any(each["session_id"] == "chat-1" for each in server.ask("/v1/state/list")[1]["sessions"])
    assert server.ask("/v1/chat/completions", {"messages": messages, "session_id": "chat-1"})[0] == 400
    assert server.ask("/v1/completions", {"prompt": "x", "session_id": "chat-1"})[0] == 400
    assert server.ask("/v1/state/delete", {}, headers={"x-session-id": "chat-1"})[0] == 200
    fresh = [{"role": "user", "content": "Why?"}]
    assert server.chat(fresh, session_id="chat-1")["choices"] == server.chat(fresh)["choices"]


def test_a_session_of_completions_is_the_whole_text(server: Server) -> None:
    text = ""
    for part in (STORY, " And then", " The end"):
        got = server.text(part, session_id="text-1", max_tokens=7, stop=["zz"])
        text += part
        assert got == server.text(text, max_tokens=7)
        text += got


def test_an_answer_that_is_broken_off_leaves_its_session_as_it_was(server: Server) -> None:
    first = server.chat("Hi", session_id="broken")
    opened = server.begin(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "session_id": "broken", "max_tokens": 100_000}
    )
    status = 0
    while status != 409:  # until the server has begun it
        status, answer, _ = server.ask(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": "y"}], "session_id": "broken", "max_tokens": 1, "n": 2}
        )
        assert status in (400, 409), answer
    opened.close()
    while server.ask("/v1/chat/completions", {"messages": [], "session_id": "broken"})[0] == 409:
        pass
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": first["choices"][0]["message"]["content"]}]
    whole = server.chat([*history, {"role": "user", "content": "Why?"}])
    assert server.chat("Why?", session_id="broken")["choices"] == whole["choices"]


def test_sessions_do_not_mix(server: Server) -> None:
    names = [f"s{index}" for index in range(8)]
    got: dict[str, list[str]] = {}

    def talk(name: str) -> None:
        texts = [server.chat(f"I am {name}. Who am I?", session_id=name), server.chat("Again?", session_id=name)]
        got[name] = [text["choices"][0]["message"]["content"] for text in texts]

    threads = [threading.Thread(target=talk, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for name in names:
        first = [{"role": "user", "content": f"I am {name}. Who am I?"}]
        one = server.chat(first)["choices"][0]["message"]["content"]
        two = server.chat([*first, {"role": "assistant", "content": one}, {"role": "user", "content": "Again?"}])
        assert got[name] == [one, two["choices"][0]["message"]["content"]]


def test_what_a_server_knows_comes_back_after_a_restart(tmp_path: Path, tuned: Path) -> None:
    """And is not used for another model, or where it is damaged; answers are the same in every case."""
    folder = tmp_path / "kept"
    asked = {"max_tokens": 10, "state_id": "poet"}
    long = STORY * 4
    with serving("--keep", str(folder)) as server:
        assert "has no states yet" in server.said()
        server.ask("/v1/state/upload?state_id=poet", tuned.read_bytes(), headers={"content-type": "application/octet-stream"})
        text, poem = server.text(long, max_tokens=10), server.text(long, **asked)
        first = server.chat("Where is the ship?", session_id="one")["choices"][0]["message"]["content"]
        server.process.terminate()
        assert server.process.wait(30) == 0, server.said()
    assert folder.stat().st_mode & 0o77 == 0
    kept = len(json.loads((folder / "index.json").read_bytes())["prefixes"])  # the last is put there after its answer has gone
    assert kept > 3
    for damage in (False, True):
        if damage:
            (folder / "prefix-0.safetensors").write_bytes(b"damaged")
        with serving("--keep", str(folder)) as server:
            assert ("is damaged and not used" if damage else "1 states, 1 sessions") in server.said()
            assert server.metrics()["cache_states"] == (0 if damage else kept)
            answer = server.complete(long, max_tokens=10)
            assert answer["choices"][0]["text"] == text
            assert (answer["usage"]["prompt_tokens_details"]["cached_tokens"] == answer["usage"]["prompt_tokens"]) == (not damage)
            if not damage:
                assert server.text(long, **asked) == poem
                history = [{"role": "user", "content": "Where is the ship?"}, {"role": "assistant", "content": first}]
                whole = server.chat([*history, {"role": "user", "content": "Why?"}])
                assert server.chat("Why?", session_id="one")["choices"] == whole["choices"]
            server.process.kill()  # nothing is written
    other = MODEL.with_name("rwkv7-tiny-pairs.safetensors")
    with serving("--keep", str(folder), model=other) as server:
        assert "another model" in server.said() and server.metrics()["cache_states"] == 0

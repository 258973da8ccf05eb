"""Bodies that no client would send: never a crash, never an error of the server's own, never a leak, and the next answer is right.

`make test` sends a few hundred, `make test-serve` ten thousand (RWKVQUANT_HOSTILE).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rwkvquant import Model
from tests.serve.servers import STORY, Server, serving

COUNT = int(os.environ.get("RWKVQUANT_HOSTILE", "400"))
MOST_GROWTH = 150e6  # bytes of memory: the cache of this server has 50 MB
FINE = {200, 400, 403, 404, 409, 413, 429}
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize", "/v1/state/delete", "/v1/embeddings"]
FIELDS = [
    "messages",
    "prompt",
    "input",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "n",
    "best_of",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "echo",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "penalty_decay",
    "response_format",
    "tools",
    "tool_choice",
    "think",
    "reasoning_effort",
    "reasoning",
    "chat_template_kwargs",
    "session_id",
    "state_id",
    "suffix",
    "text",
    "instructions",
    "content",
    "tokens",
    "include",
    "background",
    "metadata",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    1e308,
    -1e308,
    1.5,
    10**30,
    "",
    "x",
    "auto",
    "required",
    "none",
    "\ud800",
    "\0",
    "\ufdd0",
    "é" * 50,
    "a" * 3000,
    [],
    [[]],
    [1, 2],
    [0],
    [4095],
    [4096],
    [-1],
    ["x", 1],
    ["", ""],
    {},
    {"type": "json_object"},
    {"type": "text"},
    {"include_usage": True},
    {"0": 100},
    {"5": -100},
    {"x": 1},
    {"effort": "high"},
    {"enable_thinking": True},
    {"format": {"type": "json_object"}},
    {"type": "json_schema", "json_schema": {"schema": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}}},
    {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
    {"type": "json_schema", "json_schema": {"schema": {"pattern": "(a+)+$"}}},
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    [{"role": "assistant", "content": None}],
    [{"role": "tool", "content": "x"}],
    [{"role": "user"}],
    [{}],
    [{"role": "user", "content": "\ud800"}],
    [{"role": ["user"], "content": {}}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, {"role": "user", "content": "x"}],
    [{"type": "function", "function": {"name": "f"}}],
    [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    [{"type": "web_search"}],
    [{"type": "function_call", "name": "f", "arguments": "x", "call_id": "1"}],
    [{"type": "message", "role": "user", "content": "Hi"}],
]


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    with serving("--max-tokens", "12", "--max-prompt", "2000", "--cache-mb", "50", slots=4) as running:
        yield running
        assert running.process.poll() is None and "Traceback" not in running.said(), running.said()


def body(rng: random.Random) -> bytes:
    """Fields of the API with values of any type, mostly in places where they belong; and now and then no JSON at all."""
    fields: dict[str, Any] = {}
    if rng.random() < 0.7:  # something to answer
        fields = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "input": "Hi", "content": "Hi", "tokens": [5]}
    for name in rng.sample(FIELDS, rng.choice([1, 1, 2, 3, 6])):
        value = rng.choice(VALUES)
        fields[name] = [value, {name: value}, value][rng.randrange(3)] if rng.random() < 0.2 else value
    raw = json.dumps(fields).encode()
    if rng.random() < 0.15:
        at = rng.randrange(len(raw))
        raw = raw[:at] + rng.randbytes(rng.randrange(4)) + raw[at + rng.randrange(3) :]
    return raw


def memory(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_hostile_bodies_do_no_harm(small: Server, model: Model) -> None:
    rng, seen, before = random.Random(7), set(), 0
    for number in range(COUNT):
        raw, path = body(rng), rng.choice(PATHS)
        status, answer, _ = small.ask(path, raw)
        seen.add(status)
        assert status in FINE or (status == 501), (path, raw, answer)
        if status != 200:
            assert set(answer) == {"error"} and isinstance(answer["error"]["message"], str), (path, raw, answer)
        if number == COUNT // 4:
            before = memory(small)
    assert {200, 400} <= seen
    assert memory(small) - before < MOST_GROWTH
    assert small.text(STORY, max_tokens=12) == model.generate(STORY, 12, temperature=0).text
    assert small.metrics()["running"] == 0


def test_hostile_schemas_end(small: Server) -> None:
    """Deep, wide and ambiguous ones: refused in a sentence, or answered."""
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    wide = {"type": "object", "properties": {f"p{i}": {"enum": list(range(20))} for i in range(500)}}
    either = {"anyOf": [{"type": "string", "pattern": f"^(a|b|ab)*{i}$"} for i in range(50)]}
    for schema in (
        deep,
        wide,
        either,
        {"type": "string", "pattern": "(.*a){30}"},
        {"type": "string", "minLength": 10**9},
        {"enum": ["x" * 10**5]},
    ):
        asked = {
            "messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        }
        status, answer, _ = small.ask("/v1/chat/completions", {**asked, "max_tokens": 5})
        assert status in (200, 400), answer

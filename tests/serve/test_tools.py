"""Tools: what the model is told, the calls in its text, and answers that must be JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvquant.runtime.templates import chat_template
from rwkvquant.serve.tools import CALL_CLOSE, CALL_OPEN, CallSplit, Tool, call_text, without_tools
from tests.serve.servers import STORY, Server

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
ASKED = [{"role": "user", "content": "Will it rain in Rome?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@given(st.lists(st.sampled_from(["Words. ", CALL_OPEN, CALL_CLOSE, "<tool", "é", call_text("weather", {"city": "Rome"}), "{}"])), st.data())
def test_calls_do_not_depend_on_how_a_text_is_cut(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)

    def split(pieces: list[str]) -> tuple[str, list[Any]]:
        one = CallSplit(frozenset({"weather"}))
        got = [one.push(piece) for piece in pieces] + [one.finish()]
        assert one.calls == [call for _, calls in got for call in calls]
        return "".join(words for words, _ in got), [call["function"] for call in one.calls]

    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = split([text])
    assert split(pieces) == split(list(text)) == whole
    assert len(whole[1]) <= text.count(CALL_OPEN)


def test_what_is_no_call_of_a_known_tool_is_words() -> None:
    for inside in ("not JSON", '{"name": "other", "arguments": {}}', '{"name": "weather", "arguments": 3}', "[" * 10_000):
        one = CallSplit(frozenset({"weather"}))
        assert one.push(f"a {CALL_OPEN}{inside}{CALL_CLOSE} b") == (f"a {CALL_OPEN}{inside}{CALL_CLOSE} b", []) and not one.calls
    one = CallSplit(frozenset({"weather"}))
    assert one.push(f'{CALL_OPEN}{{"name": "weather"') == ("", []) and one.finish() == (f'{CALL_OPEN}{{"name": "weather"', [])


def test_a_tool_that_must_be_called_is_called(server: Server) -> None:
    """A model that has never seen a tool writes arguments that fit the schema; ids are never null."""
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        body = {"messages": ASKED, "tools": [WEATHER], "tool_choice": choice, "temperature": 1.0, "seed": 4, "max_tokens": 200}
        answer = server.ask("/v1/chat/completions", body)[1]
        (choice_,) = answer["choices"]
        (call,) = choice_["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert choice_["finish_reason"] == "tool_calls" and choice_["message"]["content"] is None
        assert call["id"].startswith("call_") and call["type"] == "function" and call["function"]["name"] == "weather"
        assert set(arguments) == {"city", "days"} and len(arguments["city"]) <= 8 and arguments["days"] in (1, 2, 3)
        deltas = [c["choices"][0] for c in server.events("/v1/chat/completions", body)[:-1]]
        calls = [each for part in deltas for each in part["delta"].get("tool_calls", ())]
        assert [c["function"] for c in calls] == [call["function"]] and calls[0]["index"] == 0 and calls[0]["id"]
        assert deltas[-1]["finish_reason"] == "tool_calls" and not any(part["delta"].get("content") for part in deltas)


def test_a_conversation_with_calls_and_results_goes_on(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    history = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
    ]
    answer = server.chat(history, tools=[WEATHER])
    assert answer["choices"][0]["finish_reason"] == "length" and "tool_calls" not in answer["choices"][0]["message"]
    assert server.chat(history, tools=[WEATHER], tool_choice="none")["usage"]["prompt_tokens"] < answer["usage"]["prompt_tokens"]


def test_a_template_without_tools_is_told_of_them_in_words() -> None:
    tool = Tool("weather", "The weather", {"type": "object"})
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sun"},
    ]
    system, user, answer, result = without_tools(messages, [tool])
    assert system["role"] == "system" and '"name": "weather"' in system["content"] and "{{" not in system["content"]
    assert user == messages[0] and answer["content"] == call_text("weather", {"city": "Rome"})
    assert result == {"role": "user", "content": "<tool_response>sun</tool_response>"}
    assert without_tools([{"role": "system", "content": "A."}], [tool])[0]["content"].startswith("A.\nYou can call")


def test_a_jinja_template_gets_tools_calls_and_results(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    source = (
        "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}({{ c.function.name }} {{ c.function.arguments.city }}){% endfor %};{% endfor %}"
    )
    (tmp_path / "t.jinja").write_text(source)
    template = chat_template(tmp_path / "t.jinja")
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ro\ufdd0me"}}}
    messages: Any = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "sun", "tool_call_id": "1"}]
    assert template.knows_tools
    assert template.render(messages, tools=[WEATHER]) == "[weather]assistant:(weather Rome);tool:sun;"
    assert template.render(messages) == "assistant:(weather Rome);tool:sun;"


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_that_must_be_json_is(server: Server, seed: int) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    for temperature in (0, 1.5):
        options = {"response_format": schema, "max_tokens": 200, "temperature": temperature, "seed": seed, "top_p": 1.0}
        answer = server.chat("Who?", **options)
        person = json.loads(answer["choices"][0]["message"]["content"])
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert set(person) == {"name", "age"} and 0 <= person["age"] <= 150 and len(person["name"]) <= 10
    answer = server.chat("Who?", response_format={"type": "json_object"}, max_tokens=300, temperature=1.0, seed=seed, logit_bias={})
    if answer["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict)
    assert server.chat("Who?", response_format={"type": "text"})["choices"] == server.chat("Who?")["choices"]


def test_several_answers_have_their_own_grammar(server: Server) -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": PERSON}}
    answer = server.chat("Who?", response_format=schema, max_tokens=200, temperature=1.5, top_p=1.0, seed=1, n=3)
    assert len({json.dumps(json.loads(choice["message"]["content"])) for choice in answer["choices"]}) > 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://a/b"}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER] * 200}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": 3}, "tool_choice"),
    ],
)
def test_a_wrong_wish_is_named(server: Server, fields: dict[str, Any], param: str) -> None:
    status, answer, _ = server.ask("/v1/chat/completions", {"messages": ASKED, **fields})
    assert status == 400 and answer["error"]["param"] == param, answer


def test_a_text_that_was_constrained_leaves_nothing(server: Server) -> None:
    before = server.text(STORY, max_tokens=12)
    server.chat(STORY, response_format={"type": "json_object"}, max_tokens=20)
    assert server.text(STORY, max_tokens=12) == before

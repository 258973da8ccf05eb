"""A conversation has the form that BlinkDL's models know; an answer ends at token 0 or the user's next turn; nothing is read twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant.errors import FormatError, TokenizerError
from rwkvquant.runtime.chat import Chat, _Place
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import load
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer
from rwkvquant.runtime.tokenizer_world import WorldTokenizer

DATA = Path(__file__).parents[1] / "data"
GREEDY = SamplingConfig(temperature=0)
JOINED = [b"", *(bytes([value]) for value in range(256)), b"Done", b".\n\nUs", b"er: x", b"\n\n\n", b"r:", b"\xa9\n", b"\n\xf0\x9f"]
TOKENIZERS: dict[str, Tokenizer] = {
    "world": load_tokenizer("world", 65536),
    "bytes": load_tokenizer("bytes", 256),
    "joined": WorldTokenizer(JOINED),  # tokens that overlap the edges of the stop text and of characters
}


@dataclass
class Heard:
    """A state that is simply everything that was read, and the place in the script."""

    tokens: tuple[int, ...]
    at: int | None = None


class ScriptedModel:
    """Says the next token of a script after the token before it, and the first one after any prompt. Then token 0."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.script: list[int] = []
        self.calls = 0

    def forward(self, tokens: Sequence[int], state: Heard | None) -> tuple[np.ndarray, Heard]:
        self.calls += 1
        at = state.at if state is not None and state.at is not None and list(tokens) == self.script[state.at : state.at + 1] else None
        heard = Heard((*(state.tokens if state else ()), *tokens), 0 if at is None else at + 1)
        logits = np.zeros(self.tokenizer.size, np.float32)
        logits[self.script[heard.at] if heard.at < len(self.script) else 0] = 1
        return logits, heard

    def will_say(self, text: str) -> None:
        self.script = self.tokenizer.encode(text)


def _chat(kind: str = "world", **options: Any) -> tuple[Chat, ScriptedModel]:
    model = ScriptedModel(TOKENIZERS[kind])
    return Chat(model, GREEDY, **options), model  # type: ignore[arg-type]


def _heard(chat: Chat, model: ScriptedModel) -> str:
    """What the model has read from the start of the conversation, the first token 0 left out."""
    heard = _state(chat).tokens
    assert heard[0] == 0 and 0 not in heard[1:]
    return model.tokenizer.decode(heard[1:])


def _state(chat: Chat) -> Any:
    return chat._places[-1].state


def _tail(chat: Chat) -> str:
    """What was shown and is not read yet: the beginning of the next turn."""
    return chat._heard.removeprefix(chat._places[-1].text)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_users_next_turn_ends_an_answer_and_is_not_shown(kind: str) -> None:
    chat, model = _chat(kind)
    model.will_say(" Hello there.\n\nUser: and then")
    assert "".join(chat.reply("Hi!")) == " Hello there."
    model.will_say(" Bye.")
    assert "".join(chat.reply("  Leave\r\nnow  ")) == " Bye."
    read = _heard(chat, model) + _tail(chat)
    assert read == "User: Hi!\n\nAssistant: Hello there.\n\nUser: Leave\nnow\n\nAssistant: Bye."


def test_the_stop_text_is_found_when_tokens_overlap_its_edges() -> None:
    chat, model = _chat("joined")
    model.will_say("Done.\n\nUser: x")
    assert len(model.script) == 3  # "Done", ".\n\nUs", "er: x"
    assert "".join(chat.reply("Hi")) == "Done."
    assert (_heard(chat, model), _tail(chat)) == ("User: Hi\n\nAssistant:Done", ".")
    model.will_say("Yes")
    list(chat.reply("Really?"))
    assert _heard(chat, model) == "User: Hi\n\nAssistant:Done.\n\nUser: Really?\n\nAssistant:Yes"


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", ["a\n\nUse it", "\n\n\nUser", "one\n\ntwo\n\nUsers: none", "User: at once", "ends\n\nUser", "\n", ""])
def test_text_that_only_resembles_the_stop_is_shown_whole(kind: str, text: str) -> None:
    chat, model = _chat(kind)
    model.will_say(text)
    assert "".join(chat.reply("Hi")) == text


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(list(TOKENIZERS)),
    parts=st.lists(st.sampled_from(["\n", "\n\n", "User", "User:", ":", " a", "é", "😀", "\n\nUser:"]), max_size=8),
)
def test_an_answer_is_the_text_before_the_first_stop(kind: str, parts: list[str]) -> None:
    chat, model = _chat(kind)
    model.will_say("".join(parts))
    said = "".join(chat.reply("Hi"))
    assert said == "".join(parts).split("\n\nUser:")[0]
    assert _heard(chat, model) + _tail(chat) == f"User: Hi\n\nAssistant:{said}"  # kept state and tail: exactly what was said, once


def test_the_system_text_is_read_once_before_the_first_message() -> None:
    chat, model = _chat(system=" You are\r\n\r\na bot. ")
    assert not chat.begun
    model.will_say(" Hi.")
    list(chat.reply("Hello"))
    assert chat.begun
    model.will_say(" Bye.")
    list(chat.reply("Leave"))
    assert _heard(chat, model) == "System: You are\na bot.\n\nUser: Hello\n\nAssistant: Hi.\n\nUser: Leave\n\nAssistant: Bye."


@pytest.mark.parametrize("system", [None, "", " \n"])
def test_without_a_system_text_a_conversation_begins_with_the_user(system: str | None) -> None:
    chat, model = _chat(system=system)
    model.will_say(" Hi.")
    list(chat.reply("Hello"))
    assert _heard(chat, model) == "User: Hello\n\nAssistant: Hi."


def test_a_system_text_that_is_not_unicode_is_refused_at_once() -> None:
    with pytest.raises(TokenizerError, match="surrogate"):
        _chat(system="\udcff")


@pytest.mark.parametrize(
    ("message", "read"),
    [("a\n\nb", "a\nb"), ("a\n \t\n\r\n  b", "a\n  b"), ("a\n  b\n c", "a\n  b\n c"), ("a\n\nUser: b", "a\nUser: b"), (" \n", "")],
)
def test_a_message_has_no_empty_line_because_that_ends_a_turn(message: str, read: str) -> None:
    chat, model = _chat()
    model.will_say(" ok")
    list(chat.reply(message))
    assert _heard(chat, model) == f"User: {read}\n\nAssistant: ok"


def test_nothing_is_read_twice() -> None:
    chat, model = _chat("bytes")
    for turn in range(6):
        model.will_say(f" answer {turn}\n\nUser:")
        before = model.calls
        list(chat.reply("question"))
        assert model.calls - before == 1 + len(model.script)  # one prompt, then one call a token, in every turn


def test_an_answer_is_cut_at_the_limit_and_the_conversation_goes_on() -> None:
    chat, model = _chat("bytes", max_tokens=7)
    model.will_say(" abcdéfghij")
    assert "".join(chat.reply("Hi")) == " abcdé"
    model.will_say("ok")
    list(chat.reply("More"))
    assert _heard(chat, model) == "User: Hi\n\nAssistant: abcdé\n\nUser: More\n\nAssistant:ok"


def test_an_answer_cut_within_a_character_is_kept_as_it_was_shown() -> None:
    chat, model = _chat("bytes", max_tokens=6)
    model.will_say(" abcdéf")
    assert "".join(chat.reply("Hi")) == " abcd\ufffd"
    assert _heard(chat, model) + _tail(chat) == "User: Hi\n\nAssistant: abcd\ufffd"


def test_penalties_are_counted_within_each_answer() -> None:
    model = ScriptedModel(TOKENIZERS["bytes"])
    chat = Chat(model, SamplingConfig(temperature=0, frequency_penalty=2.0))  # type: ignore[arg-type]
    model.will_say("ab")
    assert "".join(chat.reply("Hi")) == "".join(chat.reply("Hi")) == "ab"
    model.will_say("aa")  # the second a costs more than it is worth
    assert "".join(chat.reply("Hi")) == "a"


def test_an_answer_closed_early_counts_as_far_as_it_was_shown() -> None:
    chat, model = _chat("bytes")
    model.will_say(" one two")
    answer = chat.reply("Hi")
    assert [next(answer), next(answer)] == [" ", "o"]
    answer.close()  # type: ignore[attr-defined]
    model.will_say("ok")
    list(chat.reply("More"))
    assert _heard(chat, model) == "User: Hi\n\nAssistant: o\n\nUser: More\n\nAssistant:ok"


def test_a_message_that_is_not_unicode_leaves_the_conversation_as_it_was() -> None:
    chat, model = _chat()
    model.will_say(" ok")
    list(chat.reply("Hi"))
    with pytest.raises(TokenizerError, match="surrogate"):
        list(chat.reply("\udcff"))
    assert _heard(chat, model) == "User: Hi\n\nAssistant: ok"


def test_another_chat_continues_a_saved_conversation(tmp_path: Path) -> None:
    model = load(DATA / "rwkv7-tiny.pth", tokenizer=str(DATA / "tokenizer.json"))
    first = Chat(model, GREEDY, max_tokens=8)
    list(first.reply("Who are you?"))
    first.save(tmp_path / "chat.state")
    second = Chat(model, GREEDY, max_tokens=8)
    second.load(tmp_path / "chat.state")
    assert "".join(second.reply("And then?")) == "".join(first.reply("And then?"))
    fresh = Chat(model, GREEDY, max_tokens=8)
    list(fresh.reply("And then?"))
    np.testing.assert_array_equal(_state(second).recurrent.wkv, _state(first).recurrent.wkv)
    assert not np.allclose(_state(second).recurrent.wkv, _state(fresh).recurrent.wkv)


def test_saving_reads_what_was_shown_but_not_yet_read(tmp_path: Path) -> None:
    model = load(DATA / "rwkv7-tiny.pth", tokenizer=str(DATA / "tokenizer.json"))
    chat, by_hand = Chat(model), model.forward([0, *model.tokenizer.encode("User: Hi")])[1]
    chat._places, chat._heard = [chat._places[0], _Place("User: Hi", by_hand)], "User: Hi there"
    chat.save(tmp_path / "chat.state")
    _, expected = model.forward(model.tokenizer.encode(" there"), by_hand)
    again = Chat(model)
    again.load(tmp_path / "chat.state")
    np.testing.assert_array_equal(_state(again).recurrent.wkv, expected.recurrent.wkv)


def test_a_conversation_that_is_saved_before_the_first_message_has_the_system_text(tmp_path: Path) -> None:
    model = load(DATA / "rwkv7-tiny.pth", tokenizer=str(DATA / "tokenizer.json"))
    Chat(model, system="Be kind.").save(tmp_path / "chat.state")
    again = Chat(model)
    again.load(tmp_path / "chat.state")
    expected = model.forward([0, *model.tokenizer.encode("System: Be kind.")])[1]
    assert again.begun
    np.testing.assert_array_equal(_state(again).recurrent.wkv, expected.recurrent.wkv)


def test_another_models_conversation_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = load(DATA / "rwkv7-tiny.pth", tokenizer=str(DATA / "tokenizer.json"))
    other = load(DATA / "rwkv6-8m.pth", tokenizer=str(DATA / "tokenizer.json"))
    other.initial_state().save(tmp_path / "other.state")
    chat = Chat(model, GREEDY, max_tokens=2)
    with pytest.raises(FormatError, match=r"other\.state: .* this one is of rwkv6 with L="):
        chat.load(tmp_path / "other.state")
    assert list(chat.reply("Hi"))


def test_the_seed_that_was_drawn_repeats_a_conversation() -> None:
    model = load(DATA / "rwkv7-tiny.pth", tokenizer=str(DATA / "tokenizer.json"))
    wild = SamplingConfig(temperature=5.0, top_p=1.0)
    first = Chat(model, wild, max_tokens=8)
    second = Chat(model, dataclasses.replace(wild, seed=first.seed), max_tokens=8)
    for message in ("Hi", "And then?"):
        assert "".join(first.reply(message)) == "".join(second.reply(message))
    assert Chat(model, wild).seed != first.seed

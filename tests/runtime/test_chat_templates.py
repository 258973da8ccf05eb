"""With every template a conversation that continues is the conversation that is read at once, and only new text is read."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkvquant.errors import ConfigError, TokenizerError
from rwkvquant.runtime.chat import Chat
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import Model, load
from rwkvquant.runtime.thinking import ChatPiece
from rwkvquant.runtime.tokenizer_bytes import BytesTokenizer
from tests.runtime.test_chat import TOKENIZERS, ScriptedModel

DATA = Path(__file__).parents[1] / "data"
GREEDY = SamplingConfig(temperature=0)
QUESTIONS = ("Who are you?", "Add 2\n\nand 3.", "Sure?")
SAID = (" A model.\n\nUser:", ">\nLet me add.\n\n2 + 3\n</think>\nIt is 5.", "Yes, \u00e9.\n\nUser: ")
JINJA = {
    "appends": "{% for m in messages %}{% if m.role == 'user' %}Q: {% else %}A: {% endif %}{{ m.content }}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}",
    "chatml": "{{ bos_token }}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think{% endif %}",
    "ends": "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
    "counts": "{{ messages | length }} messages. {{ messages[-1].content }}: ",
}
KINDS = ["world", "rwkv", "g1", *JINJA]


class Listening:
    """A real model that says what a script says, and remembers each call."""

    def __init__(self, model: Model) -> None:
        self.model, self.tokenizer, self.arch, self.dims = model, model.tokenizer, model.arch, model.dims
        self.script: list[int] = []
        self.read: list[list[int]] = []  # what was read and not said, a list for each call
        self.last: Any = None  # the logits of the last call that read, and its state

    def will_say(self, text: str) -> None:
        self.script = [*self.tokenizer.encode(text), 0]

    def forward(self, tokens: Sequence[int], state: Any = None) -> tuple[np.ndarray, Any]:
        logits, after = self.model.forward(tokens, state)
        if self.script and list(tokens) == self.script[:1] and self.read:
            self.script = self.script[1:]
        else:
            self.read.append(list(tokens))
            self.last = logits, after
        said = np.zeros_like(logits)
        said[self.script[0] if self.script else 0] = 1
        return said, after


@pytest.fixture(scope="module")
def model() -> Model:
    return load(DATA / "rwkv7-tiny.pth", tokenizer="bytes")  # each byte is a token, so a text has only one way to be read


def talk(model: Model, template: str, folder: Path, **options: Any) -> tuple[Chat, Listening]:
    if template in JINJA:
        (folder / f"{template}.jinja").write_text(JINJA[template])
        template = str(folder / f"{template}.jinja")
    listening = Listening(model)
    return Chat(listening, GREEDY, template=template, **options), listening  # type: ignore[arg-type]


def joined(listening: Listening) -> bytes:
    return bytes(token for tokens in listening.read for token in tokens)


def ids(chat: Chat, text: str) -> list[int]:
    """A whole conversation as tokens, by definition: token 0 first, and where the template marks it."""
    parts = text.split(chat.template.end_mark) if chat.template.end_mark else [text]
    tokens = [token for part in parts for token in [0, *chat._model.tokenizer.encode(part)]]
    return tokens[1:] if text.startswith(chat.template.end_mark or "\0") else tokens


@pytest.mark.parametrize("kind", KINDS)
def test_continuing_is_reading_the_whole_text_at_once(kind: str, model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, kind, tmp_path)
    for question, said in zip(QUESTIONS, SAID, strict=True):
        listening.will_say(said)
        asked = [*chat.messages, {"role": "user", "content": question}]
        list(chat.reply(question))
        if chat.template.keeps_answers:  # what the model wrote stays as it wrote it
            continue
        logits, state = model.forward(ids(chat, chat.template.render(asked)))
        np.testing.assert_array_equal(listening.last[0], logits)
        for read, expected in zip(listening.last[1].recurrent.arrays, state.recurrent.arrays, strict=True):
            np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("kind", ["world", "rwkv"])
def test_where_answers_are_kept_the_text_is_the_template_around_them(kind: str, model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, kind, tmp_path)
    opening = chat.template.render(chat.template.opening, answer_next=False) + "\n\n" if chat.template.opening else ""
    text = opening + "User: Who are you?\n\nAssistant: A model.\n\nUser: Add 2\nand 3.\n\nAssistant:"
    for question, said in zip(QUESTIONS[:2], SAID, strict=False):
        listening.will_say(said)
        list(chat.reply(question))
    logits, _ = model.forward([0, *model.tokenizer.encode(text)])
    np.testing.assert_array_equal(listening.last[0], logits)
    assert chat._heard.startswith(text)


@pytest.mark.parametrize(
    ("kind", "said", "read"),
    [
        ("world", " A model.", "\n\nUser: Add 2\nand 3.\n\nAssistant:"),
        ("appends", " A model.", "\n\nQ: Add 2\n\nand 3.\n\nA:"),
        ("ends", " A model.", "\0user: Add 2\n\nand 3.\0assistant:"),
        ("g1", ">Hm</think>\nA model.", " A model.\n\nUser: Add 2\nand 3.\n\nAssistant: <think"),
        (
            "chatml",
            ">Hm</think>\nA model.",
            "A model.<|im_end|>\n<|im_start|>user\nAdd 2\n\nand 3.<|im_end|>\n<|im_start|>assistant\n<think",
        ),
    ],
)
def test_only_new_text_is_read(kind: str, said: str, read: str, model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, kind, tmp_path)
    listening.will_say(said)
    list(chat.reply(QUESTIONS[0]))
    listening.read.clear()
    list(chat.reply(QUESTIONS[1]))
    assert joined(listening) == read.encode()


def test_a_text_that_changes_at_its_beginning_is_read_again(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "counts", tmp_path)
    list(chat.reply("Hi"))
    listening.read.clear()
    list(chat.reply("And"))
    assert joined(listening) == b"\x003 messages. And: "


def test_g1_shows_thinking_apart_and_drops_it_from_the_conversation(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "g1", tmp_path)
    listening.will_say(SAID[1])
    pieces = list(chat.pieces(QUESTIONS[1]))
    assert "".join(piece.text for piece in pieces if piece.thinking) == "Let me add.\n\n2 + 3"
    assert "".join(piece.text for piece in pieces if not piece.thinking) == "It is 5."
    assert chat.messages == [{"role": "user", "content": QUESTIONS[1]}, {"role": "assistant", "content": "It is 5."}]
    listening.will_say(">\nOnce more.")
    assert "".join(chat.reply("Sure?")) == ""  # it never stopped to think
    assert chat.finish_reason == "stop" and chat.messages[-1]["content"] == ""
    list(chat.reply("Hm?"))
    assert chat._heard.startswith(
        "User: Add 2\nand 3.\n\nAssistant: It is 5.\n\nUser: Sure?\n\nAssistant:\n\nUser: Hm?\n\nAssistant: <think"
    )


def test_g1_without_thinking_answers_at_once(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "g1", tmp_path, think="none")
    listening.will_say(">\nIt is 5.\n\nUser: and")
    assert list(chat.pieces("Add")) == [ChatPiece(letter) for letter in "It is 5."]
    assert chat.messages[-1]["content"] == "It is 5."
    assert joined(listening)[1:] == b"User: Add\n\nAssistant: <think>\n</think"


def test_a_jinja_template_sees_the_thinking_of_earlier_answers(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "chatml", tmp_path)
    listening.will_say(">\nHm.\n</think>\nIt is 5.<|im_end|>")
    assert "".join(chat.reply("Add")) == "It is 5."
    assert chat.messages[-1]["content"] == "<think>\nHm.\n</think>\nIt is 5."


def test_own_stop_strings_are_added_to_those_of_the_template(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "world", tmp_path, stop="END")
    for said in (" Yes. END", " Yes.\n\nUser: x"):
        listening.will_say(said)
        assert "".join(chat.reply("Hi")).strip() == "Yes." and chat.finish_reason == "stop"


def test_the_greeting_is_left_out_after_a_system_text_and_a_saved_conversation(model: Model, tmp_path: Path) -> None:
    def read(chat: Chat, listening: Listening) -> bytes:
        list(chat.reply("Hi"))
        return joined(listening).lstrip(b"\0")

    assert read(*talk(model, "rwkv", tmp_path)).startswith(b"User: hi\n\nAssistant: Hi. I am your assistant")
    assert read(*talk(model, "rwkv", tmp_path, system="Be brief.")) == b"System: Be brief.\n\nUser: Hi\n\nAssistant:"
    model.forward([5])[1].save(tmp_path / "talk.state")
    chat, listening = talk(model, "rwkv", tmp_path)
    chat.load(tmp_path / "talk.state")
    assert read(chat, listening) == b"\n\nUser: Hi\n\nAssistant:"


@pytest.mark.parametrize("kind", ["world", "rwkv", "g1"])
def test_a_saved_conversation_has_what_the_template_makes_of_it(kind: str, model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, kind, tmp_path)
    listening.will_say(">Hm.</think> It is 5." if kind == "g1" else " It is 5.")
    list(chat.reply("Add"))
    chat.save(tmp_path / "talk.state")
    opening = chat.template.render(chat.template.opening, answer_next=False) + "\n\n" if chat.template.opening else ""
    expected = model.forward([0, *model.tokenizer.encode(f"{opening}User: Add\n\nAssistant: It is 5.")])[1]
    again, other = talk(model, kind, tmp_path)
    again.load(tmp_path / "talk.state")
    np.testing.assert_array_equal(again._places[0].state.recurrent.wkv, expected.recurrent.wkv)
    for each in (chat, again):
        each._model.will_say(">x</think>ok")  # type: ignore[attr-defined]
        list(each.reply("Sure?"))
    np.testing.assert_array_equal(listening.last[0], other.last[0])


def test_a_saved_conversation_is_refused_with_a_jinja_file_and_a_tuned_state_is_not(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "chatml", tmp_path)
    model.forward([5])[1].save(tmp_path / "talk.state")
    with pytest.raises(ConfigError, match=r"needs the text of the whole conversation.*got .*talk\.state.*with a built-in template"):
        chat.load(tmp_path / "talk.state")
    chat._start(model.forward([5])[1])  # as a tuned state: nothing is before the text, not even token 0
    list(chat.reply("Hi"))
    assert joined(listening) == b"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think"


def test_a_reset_conversation_is_a_new_one(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "world", tmp_path, system="Be brief.")
    for _ in range(2):
        listening.read.clear()
        list(chat.reply("Hi"))
        assert joined(listening) == b"\0System: Be brief.\n\nUser: Hi\n\nAssistant:"
        chat.reset()
        assert not chat.begun and chat.messages == [{"role": "system", "content": "Be brief."}]


@pytest.mark.parametrize("kind", ["world", "g1", "chatml"])
def test_a_message_that_is_refused_leaves_the_conversation_as_it_was(kind: str, model: Model, tmp_path: Path) -> None:
    chat, _ = talk(model, kind, tmp_path)
    list(chat.reply("Hi"))
    before = (chat.messages, chat._places, chat._heard)
    with pytest.raises(TokenizerError, match="surrogate"):
        list(chat.reply("\udcff"))
    assert (chat.messages, chat._places, chat._heard) == before


def test_a_template_that_makes_no_text_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "silent.jinja").write_text("always the same")
    chat = Chat(model, GREEDY, template=tmp_path / "silent.jinja", max_tokens=1)
    list(chat.reply("Hi"))
    with pytest.raises(ConfigError, match=r"silent\.jinja makes no text of this message"):
        chat._read(chat._places[-1].text, 0)


def test_an_answer_of_g1_may_be_longer_by_default() -> None:
    model = load(DATA / "rwkv7-tiny.pth", tokenizer="bytes")
    assert [Chat(model, template=name).max_tokens for name in ("world", "rwkv", "g1")] == [512, 512, 4096]


@pytest.mark.parametrize("think", ["on", "short", "long", "none"])
@pytest.mark.parametrize(
    "said", ["It is 5.", "**Five**", "1. One\n2. Two", "```python\n5\n```", "\u4f60\u597d\u3002", '"5"', "<b>5</b>", "- 5", ":5"]
)
def test_the_pieces_are_the_tokens_of_the_whole_text_with_the_world_vocabulary(think: str, said: str) -> None:
    """So a model of the World family reads a conversation that continues exactly as one that it was trained with."""
    model = ScriptedModel(TOKENIZERS["world"])
    chat = Chat(model, GREEDY, template="g1", think=think)  # type: ignore[arg-type]
    for question in ("What is <x", "Sure?"):
        model.will_say(f">\n{said}" if think == "none" else f">\nHm.\n</think>\n{said}")
        expected = [0, *model.tokenizer.encode(chat.template.render([*chat.messages, {"role": "user", "content": question}], think))]
        assert chat.answer(question).text == said
        assert list(chat._places[-1].state.tokens[: len(expected)]) == expected  # type: ignore[union-attr]


class Composing(BytesTokenizer):
    """Composes accents before it encodes, as some tokenizer.json do: what it decodes is another text, of another length."""

    def encode(self, text: str) -> list[int]:
        return super().encode(unicodedata.normalize("NFC", text))


def test_a_tokenizer_that_changes_text_costs_reading_again_and_nothing_is_read_twice(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "g1", tmp_path)
    listening.tokenizer = Composing(256)
    listening.will_say(">Hm</think>\nYes.")
    list(chat.reply("e\u0301" * 3))
    list(chat.reply("Sure?"))
    whole = "User: " + "\u00e9" * 3 + "\n\nAssistant: Yes.\n\nUser: Sure?\n\nAssistant: <think"
    np.testing.assert_array_equal(listening.last[0], model.forward([0, *whole.encode()])[0])


def test_an_answer_at_once_is_what_the_pieces_are(model: Model, tmp_path: Path) -> None:
    chat, listening = talk(model, "g1", tmp_path)
    listening.will_say(SAID[1])
    result = chat.answer("Add")
    assert (result.text, result.thinking, result.finish_reason) == ("It is 5.", "Let me add.\n\n2 + 3", "stop")
    chat, listening = talk(model, "world", tmp_path, max_tokens=4)
    listening.will_say(" It is 5.")
    assert chat.answer("Add").to_json() == {"text": "It", "thinking": "", "finish_reason": "length"}

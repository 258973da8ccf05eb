"""The built-in templates. All have the form of RWKV's chat models: turns with an empty line between them.

    System: You are a poet.

    User: Hi

    Assistant: Hello.

    User: A poem, please

    Assistant:

An empty line ends a turn, so what a user writes has none: several line breaks become one, as the model cards of RWKV World and RWKV7-G1
advise. Sources: the model cards of BlinkDL/rwkv-7-world and BlinkDL/rwkv7-g1, API_DEMO_CHAT.py of BlinkDL/ChatRWKV.

world   this form and nothing else. An answer ends where the model begins the user's next turn. The default.
rwkv    as RWKV's chat demo: a greeting comes first, and an answer ends at its first empty line.
g1      for the reasoning models G1: an answer begins with <think> ... </think>. Earlier answers are given to the model without their
        thinking, as in the template that the RWKV team made for llama.cpp and uses in its app.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.templates.base import ChatMessage, ChatTemplate
from rwkvquant.runtime.thinking import CLOSE

SEPARATOR = "\n\n"
NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
STOP = f"{SEPARATOR}User:"  # the model begins the user's next turn
GREETING: tuple[ChatMessage, ...] = (  # the first turn of RWKV's chat demo
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": "Hi. I am your assistant and I will provide expert full response in full details. "
        "Please feel free to ask any question and I will always answer it.",
    },
)

# How G1 thinks -> (added to the user's message, added after "Assistant:"). The last tag is left open, because the model has tokens that
# hold ">" and line breaks together. "short" and "long" are for models of 2025-09-22 and newer.
THINK = {
    "on": ("", " <think"),
    "short": (" think a bit", " <think"),
    "long": (" think a lot", " <think"),
    "none": ("", " <think>\n</think"),
}


def _turns(messages: Sequence[ChatMessage]) -> list[str]:
    turns = []
    for message in messages:
        if message["role"] not in NAMES:
            raise ConfigError(f"the role of a message is one of {', '.join(NAMES)}; got {message['role']!r}")
        text = message["content"].strip() if message["role"] == "assistant" else without_empty_lines(message["content"])
        turns.append(f"{NAMES[message['role']]}: {text}" if text or message["role"] == "user" else f"{NAMES[message['role']]}:")
    return turns


def _plain(messages: Sequence[ChatMessage], think: str | None, answer_next: bool) -> str:
    return SEPARATOR.join([*_turns(messages), *(["Assistant:"] if answer_next else [])])


def _g1(messages: Sequence[ChatMessage], think: str | None, answer_next: bool) -> str:
    """Thinking is dropped from earlier answers; the way to think is said to the model in the last turn alone."""
    answers = [_without_thinking(message) for message in messages]
    if not answer_next:
        return _plain(answers, think, False)
    wish, begin = THINK[think or next(iter(THINK))]
    turns = _turns(answers)
    if turns and answers[-1]["role"] == "user":
        turns[-1] += wish
    return SEPARATOR.join([*turns, f"Assistant:{begin}"])


def _without_thinking(message: ChatMessage) -> ChatMessage:
    if message["role"] != "assistant":
        return message
    return {"role": "assistant", "content": message["content"].rpartition(CLOSE)[2]}


def without_empty_lines(text: str) -> str:
    """Without space at both ends, and without lines that are empty or only space: "a\\n \\n\\n  b" -> "a\\n  b"."""
    return re.sub(r"\n(?:[ \t]*\n)+", "\n", text.replace("\r\n", "\n").strip())


TEMPLATES = {
    template.name: template
    for template in (
        ChatTemplate("world", (STOP,), _plain, separator=SEPARATOR, about="turns of User and Assistant"),
        ChatTemplate("rwkv", (SEPARATOR,), _plain, opening=GREETING, separator=SEPARATOR, about="as RWKV's chat demo"),
        ChatTemplate("g1", (STOP,), _g1, thinking=tuple(THINK), separator=SEPARATOR, max_tokens=4096, about="reasoning models"),
    )
}

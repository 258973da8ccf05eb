"""The thinking of a reasoning model, apart from its answer: `<think> ... </think> The answer`, as the text grows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rwkvquant.runtime.stopping import beginning_at_end

OPEN, CLOSE = "<think>", "</think>"
BEGUN = re.compile(r"<think>?\s*(?:</think>?\s*)?\Z")


@dataclass(frozen=True)
class ChatPiece:
    """A piece of what a model writes. `thinking`: it belongs to the thinking and not to the answer."""

    text: str
    thinking: bool = False


def begun_thinking(prompt: str) -> str:
    """The end of a prompt where thinking begins: "...Assistant: <think" -> "<think"; empty if it does not."""
    match = BEGUN.search(prompt)
    return match[0] if match else ""


class ThinkingSplit:
    """Text a piece at a time to thinking and answer. The tags, and space at the beginning of both and after the thinking, are left out.

    A text that does not begin with <think> is an answer.
    """

    def __init__(self, begun: str = "", is_open: bool = True) -> None:
        """`begun` is what was written for the model, as `begun_thinking` finds it. `is_open` False passes all text on as an answer."""
        self._part: Literal["begin", "thinking", "answer"] = "begin" if is_open else "answer"
        self._held = ""
        self._empty = is_open  # nothing of the current part was passed on
        self._first = ""  # what the model writes to complete a tag that was begun for it
        if begun.endswith(CLOSE[:-1]):
            self._part, self._first = "answer", CLOSE[-1]
        else:
            self.push(begun)

    @property
    def within_thinking(self) -> bool:
        """Whether the thinking has begun and not ended."""
        return self._part == "thinking"

    def push(self, text: str) -> list[ChatPiece]:
        """What is known now; what may be the beginning of a tag is held back."""
        self._held += text
        pieces = []
        if self._part == "begin":
            rest = self._held.lstrip()
            if rest != OPEN and OPEN.startswith(rest):
                return []
            begun = rest.startswith(OPEN)
            self._part, self._held = ("thinking", rest.removeprefix(OPEN)) if begun else ("answer", rest)
        if self._part == "thinking":
            thought, closed, rest = self._held.partition(CLOSE)
            if closed:
                pieces += self._piece(thought.rstrip())
                self._part, self._held, self._empty = "answer", rest, True
            else:
                known = thought.removesuffix(beginning_at_end(thought, CLOSE)).rstrip()
                self._held = thought[len(known) :]
                pieces += self._piece(known)
        if self._part == "answer":
            pieces += self._piece(self._held)
            self._held = ""
        return pieces

    def finish(self) -> list[ChatPiece]:
        """What is still held back when there is no more text."""
        held, self._held = self._held, ""
        if self._part == "begin":
            self._part = "answer"
        return self._piece(held.rstrip() if self.within_thinking else held)

    def _piece(self, text: str) -> list[ChatPiece]:
        if text and self._first:
            text, self._first = text.removeprefix(self._first), ""
        text = text.lstrip() if self._empty else text
        if not text:
            return []
        self._empty = False
        return [ChatPiece(text, self.within_thinking)]

"""Thinking and answer are told apart, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvquant.runtime.thinking import ThinkingSplit, begun_thinking


def split(begun: str, pieces: list[str]) -> tuple[str, str]:
    """(thinking, answer)."""
    splitter = ThinkingSplit(begun)
    parts = [part for piece in pieces for part in splitter.push(piece)] + splitter.finish()
    assert all(part.text for part in parts)
    return "".join(part.text for part in parts if part.thinking), "".join(part.text for part in parts if not part.thinking)


CASES = [
    ("<think", ">\nIt is 5.\n</think>\nFive.", "It is 5.", "Five."),
    ("<think", ">It is\n\n 5</think>Five.\n", "It is\n\n 5", "Five.\n"),
    ("<think>\n", "a < b </ think>\n</think>\n\nFive </think>", "a < b </ think>", "Five </think>"),
    ("<think", ">cut within </thi", "cut within </thi", ""),
    ("<think", ">cut after \n", "cut after", ""),
    ("<think>\n</think", ">\nFive.", "", "Five."),
    ("<think>\n</think", "\nFive > four", "", "Five > four"),
    ("<think>\n\n</think>\n\n", "Five.", "", "Five."),
    ("", " <think>\nHm</think> Five", "Hm", "Five"),
    ("", " Five, not <think>", "", "Five, not <think>"),
    ("", " <thin", "", "<thin"),
    ("", "", "", ""),
]


@pytest.mark.parametrize(("begun", "text", "thinking", "answer"), CASES)
@given(data=st.data())
def test_the_parts_do_not_depend_on_the_pieces(begun: str, text: str, thinking: str, answer: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split(begun, pieces) == split(begun, list(text)) == (thinking, answer)


def test_whether_thinking_has_ended_is_known() -> None:
    splitter = ThinkingSplit("<think")
    assert [(splitter.push(text), splitter.within_thinking)[1] for text in (">", "a", "</think>", "b")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("prompt", "begun"),
    [
        ("User: x\n\nAssistant: <think", "<think"),
        ("assistant\n<think>\n", "<think>\n"),
        ("Assistant: <think>\n</think", "<think>\n</think"),
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
        ("what is <think>?\n\nAssistant:", ""),
        ("", ""),
    ],
)
def test_the_end_of_a_prompt_says_whether_thinking_was_begun(prompt: str, begun: str) -> None:
    assert begun_thinking(prompt) == begun

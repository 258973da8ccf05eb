"""Text ends before the first stop string, however the text is cut into tokens; nothing of a stop string is ever passed on."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant.errors import ConfigError, TokenizerError
from rwkvquant.runtime.stopping import TextUntilStop, stop_strings
from rwkvquant.runtime.tokenizer_world import WorldTokenizer


def streamed(chunks: list[bytes], stops: list[str]) -> tuple[list[str], bool]:
    """(what each chunk as one token, and the end, return; whether a stop string came)."""
    output = TextUntilStop(WorldTokenizer([b"", *chunks]).stream_decoder(), stop_strings(stops))
    pieces = [output.push(token) for token in range(1, len(chunks) + 1)]
    return [*pieces, output.finish()], output.stopped


def by_definition(text: str, stops: list[str]) -> tuple[str, bool]:
    """(text before the stop string that ends first, whether there is one): look at longer and longer beginnings of the text."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@pytest.mark.parametrize(
    ("chunks", "stops", "pieces"),
    [
        ([b"a", b"b", b"c"], ["b"], ["a", "", "", ""]),
        ([b"one. T", b"wo"], ["."], ["one", "", ""]),
        ([b"a<", b"st", b"op", b">b"], ["<stop>"], ["a", "", "", "", ""]),
        ([b"a<", b"st", b"ep"], ["<stop>"], ["a", "", "<step", ""]),
        ([b"a<", b"st"], ["<stop>"], ["a", "", "<st"]),  # the text ends while it may still become a stop string
        ([b"aab", b"aab", b"aac"], ["aabaac"], ["", "aab", "", ""]),  # the held text still has a beginning after its first part
        ([b"\xc3", b"\xa9x"], ["\u00e9"], ["", "", ""]),  # the bytes of the stop string's character are in two tokens
        ([b"a\xc3", b"\xa8"], ["\u00e9"], ["a", "\u00e8", ""]),  # another character with the same first byte
        ([b"a\xc3"], ["\ufffd"], ["a", ""]),  # half a character at the end is U+FFFD, and that can be a stop string
        ([b"a\xc3"], ["b"], ["a", "\ufffd"]),
        ([b"abc"], ["abcd", "bc"], ["a", ""]),  # the one that is complete first, even if a longer one began before it
        ([b"abcd"], ["abcd", "bc"], ["a", ""]),  # the same text in one token
        ([b"abc"], ["c", "bc"], ["a", ""]),  # of two that are complete at the same character the longest
        ([b"a", b"b"], [], ["a", "b", ""]),
    ],
)
def test_what_is_passed_on_has_known_answers(chunks: list[bytes], stops: list[str], pieces: list[str]) -> None:
    assert streamed(chunks, stops)[0] == pieces


@settings(max_examples=500, deadline=None)
@given(
    text=st.text("ab\u00e9\U0001f600\n", max_size=20),
    stops=st.lists(st.text("ab\u00e9\U0001f600\n", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_the_text_is_that_before_the_stop_that_ends_first_in_any_tokens(text: str, stops: list[str], data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(whole) - 1)))))
    edges = [0, *cuts, len(whole)]
    chunks = [whole[begin:end] for begin, end in itertools.pairwise(edges) if end > begin]
    pieces, stopped = streamed(chunks, stops)
    assert ("".join(pieces), stopped) == by_definition(text, stops)


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab\u00e9", max_size=12), stops=st.lists(st.text("ab\u00e9", min_size=1, max_size=3), max_size=3))
def test_no_more_is_held_back_than_may_begin_a_stop_string(text: str, stops: list[str]) -> None:
    output = TextUntilStop(WorldTokenizer([b"", *(bytes([value]) for value in range(256))]).stream_decoder(), stop_strings(stops))
    shown = "".join(output.push(byte + 1) for byte in text.encode())
    if not output.stopped:
        held = text.removeprefix(shown)
        assert shown + held == text and bool(held) == output.holds_back
        assert not held or any(stop.startswith(held) for stop in stops)


def test_one_string_is_one_stop_and_not_its_characters() -> None:
    assert stop_strings("ab") == ("ab",) and stop_strings(["ab", "c"]) == ("ab", "c") and stop_strings(()) == ()


@pytest.mark.parametrize("stop", ["", ["a", ""], [b"a"], [3]])
def test_a_stop_string_that_is_no_text_is_refused(stop: object) -> None:
    with pytest.raises(ConfigError, match="a stop string is text of at least one character"):
        stop_strings(stop)  # type: ignore[arg-type]


def test_a_stop_string_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(TokenizerError, match="surrogate"):
        stop_strings(os.fsdecode(b"\xff"))

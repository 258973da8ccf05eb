"""The World tokenizer is the `rwkv` package's, id for id."""

from __future__ import annotations

from pathlib import Path

import pytest
import rwkv
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from rwkvquant.errors import TokenizerError
from rwkvquant.runtime.tokenizer import from_data, load_tokenizer
from rwkvquant.runtime.tokenizer_world import load_world, parse_vocabulary

VOCABULARY = Path(rwkv.__path__[0], "rwkv_vocab_v20230424.txt")
WORLD = load_tokenizer("world", 65536)


@pytest.fixture(scope="module")
def judge() -> TRIE_TOKENIZER:
    return TRIE_TOKENIZER(str(VOCABULARY))


def test_the_packaged_table_is_the_vocabulary_of_the_rwkv_package(judge: TRIE_TOKENIZER) -> None:
    tokens = load_world()
    assert len(tokens) == 65530
    assert {i: token for i, token in enumerate(tokens) if token} == judge.idx2token


@settings(max_examples=400, deadline=None)
@given(text=st.text() | st.text(alphabet=" \n\t01aeinorst'.,あ中国😀é", min_size=1, max_size=80))
def test_encoding_is_the_rwkv_packages_on_arbitrary_unicode(judge: TRIE_TOKENIZER, text: str) -> None:
    ids = WORLD.encode(text)
    assert ids == judge.encode(text)
    assert WORLD.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(1, 65529), max_size=30))
def test_decoding_is_the_rwkv_packages_for_any_ids(judge: TRIE_TOKENIZER, ids: list[int]) -> None:
    assert WORLD.decode_bytes(ids) == judge.decodeBytes(ids)
    assert WORLD.decode(ids) == judge.decodeBytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        " " * 1000,
        "\n" * 37,
        "Ünïcødé 日本語 👩‍👩‍👧‍👦",
        "The quick brown fox jumps over the lazy dog.\n\n" * 20,
        "\x00\x7f\U0010ffff",
    ],
)
def test_known_texts_survive_and_agree(judge: TRIE_TOKENIZER, text: str) -> None:
    assert WORLD.encode(text) == judge.encode(text)
    assert WORLD.decode(WORLD.encode(text)) == text


def test_the_text_file_of_the_rwkv_package_gives_the_same_tokenizer() -> None:
    from_file = load_tokenizer(VOCABULARY, 65536)
    text = "Greedy longest match: naïve façade, 1234567890, “quotes”.\r\n"
    assert from_file.encode(text) == WORLD.encode(text)
    assert from_file.to_data().arrays["table"].tobytes() == WORLD.to_data().arrays["table"].tobytes()


def test_longest_match_is_greedy_and_not_shortest_overall(tmp_path: Path) -> None:
    small = _vocabulary(tmp_path, ["1 'a' 1", "2 'ab' 2", "3 'abc' 3", "4 'd' 1", "5 'bcd' 3", "6 'b' 1", "7 'c' 1", "8 b'\\xff' 1"])
    assert small.encode("abcd") == [3, 4]
    assert small.encode("abab") == [2, 2]
    assert small.encode("bc") == [6, 7]  # "bc" begins a token but is none


def test_of_two_ids_with_the_same_bytes_text_gets_the_higher(tmp_path: Path) -> None:
    lines = ["1 'a' 1", "2 b'a' 1"]
    small, path = _vocabulary(tmp_path, lines), tmp_path / "vocabulary.txt"
    assert small.encode("aa") == TRIE_TOKENIZER(str(path)).encode("aa") == [2, 2]


def test_a_byte_without_a_token_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no token for byte 0x7a"):
        _vocabulary(tmp_path, ["1 'a' 1"]).encode("az")


def test_what_is_stored_makes_the_same_tokenizer_again() -> None:
    again = from_data(WORLD.to_data(), 65536)
    text = "State-tuned 状態 \U0001f600"
    assert again.encode(text) == WORLD.encode(text)
    assert again.size == 65536


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("2 'b'", "no length"),
        ("two 'b' 1", "no id"),
        ("2 'b' 2", "wrong length"),
        ("-1 'b' 1", "negative id"),
        ("99999999999 'b' 1", "an id that would need gigabytes"),
        ("2 '' 0", "an empty token"),
        ("2 17 2", "not a string"),
        ("2 'b 1", "an open quote"),
        ("2 bytes([98]) 1", "code, which eval would have taken for the byte b"),
        ("2 " + "(" * 5000 + " 1", "nesting that breaks the parser"),
        ("", "an empty line"),
        ("1 'b' 1", "an id twice"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_number(line: str, why: str) -> None:
    with pytest.raises(TokenizerError, match=r"^line 2 of "):
        parse_vocabulary(f"1 'a' 1\n{line}\n3 'c' 1\n")


def test_an_empty_file_is_no_vocabulary() -> None:
    with pytest.raises(TokenizerError, match="at least one line"):
        parse_vocabulary("")


def _vocabulary(directory: Path, lines: list[str]):  # type: ignore[no-untyped-def]
    path = directory / "vocabulary.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_tokenizer(path, 300)

"""What all tokenizers share: which one a model gets, streams of partial characters, stored forms that lie."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer import Tokenizer, from_data, load_tokenizer
from rwkvquant.runtime.tokenizer_file import parse
from rwkvquant.runtime.tokenizer_json import byte_characters
from rwkvquant.runtime.tokenizer_table import pack_table, unpack_table
from rwkvquant.runtime.tokenizer_world import load_world
from tests.runtime.trained_tokenizers import IDS, trained

FILE = Path(__file__).parents[1] / "data" / "tokenizer.json"
ALL: dict[str, Tokenizer] = {
    "world": load_tokenizer("world", 65536),
    "bpe": load_tokenizer(FILE, 4096),
    "bytes": load_tokenizer("bytes", 256),
    "json": parse(trained("GPT-4"), IDS, "a file"),
}
every_kind = pytest.mark.parametrize("kind", ALL)


def test_the_default_follows_the_vocabulary() -> None:
    assert load_tokenizer(None, 65536).to_data().kind == "world"
    assert load_tokenizer(None, 256).to_data().kind == "bytes"
    assert load_tokenizer(None, 100).to_data().kind == "bytes"
    with pytest.raises(TokenizerError, match=r"vocabulary of 4096.*--tokenizer FILE"):
        load_tokenizer(None, 4096)


@pytest.mark.parametrize(("spec", "vocab_size"), [("world", 65529), (FILE, 4095)])
def test_a_tokenizer_larger_than_the_vocabulary_is_refused(spec: str | Path, vocab_size: int) -> None:
    with pytest.raises(TokenizerError, match=f"at most the model's {vocab_size} ids"):
        load_tokenizer(spec, vocab_size)
    with pytest.raises(TokenizerError, match=f"at most the model's {vocab_size} ids"):
        from_data(load_tokenizer(spec, vocab_size + 1).to_data(), vocab_size)


def test_a_file_that_is_no_tokenizer_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("1 'a' 1\nOnce upon a time\n")
    with pytest.raises(TokenizerError, match=r"line 2 of a vocabulary.*Once upon.*notes\.txt"):
        load_tokenizer(path, 4096)
    path.write_bytes(b"1 'a' 1\n\xff\xfe\n")
    with pytest.raises(TokenizerError, match=r"^line 2: .*UTF-8"):
        load_tokenizer(path, 4096)


def _written(path: Path, vocabulary: dict[str, int]) -> Path:
    root = json.loads(FILE.read_text(encoding="utf-8"))
    root["model"] |= {"vocab": vocabulary, "merges": []}
    root["added_tokens"] = []
    path.write_text(json.dumps(root), encoding="utf-8")
    return path


def test_a_model_of_65536_ids_reads_its_own_tokenizer_unless_it_is_worlds(tmp_path: Path) -> None:
    letters = byte_characters()
    in_letters = {"".join(letters[byte] for byte in token): i for i, token in enumerate(load_world()) if token}
    as_text = {token.decode("utf-8", "replace"): i for i, token in enumerate(load_world()) if token}
    own = _written(tmp_path / "own.json", {letter: byte for byte, letter in enumerate(letters)})
    assert load_tokenizer(own, 65536).encode("the") == list(b"the")
    world = load_tokenizer("world", 65536)
    for vocabulary in (in_letters, as_text):
        converted = _written(tmp_path / "converted.json", vocabulary)
        assert load_tokenizer(converted, 65536).encode("the cat") == world.encode("the cat")
    in_letters_again = _written(tmp_path / "named.json", in_letters)
    assert load_tokenizer(str(in_letters_again), 65536).encode("the") != world.encode("the")  # named by the user: taken as it is
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(TokenizerError, match="JSON"):
        load_tokenizer(tmp_path / "broken.json", 65536)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(TokenizerError, match=str(path)):
            load_tokenizer(path, 4096)


@every_kind
@given(text=st.text(max_size=40))
def test_a_stream_gives_whole_characters_and_adds_up_to_the_text(kind: str, text: str) -> None:
    tokenizer = ALL[kind]
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text  # nothing waits for finish, and no piece ends within a character
    assert decoder.finish() == ""


@every_kind
@given(data=st.data())
def test_a_stream_of_any_ids_adds_up_to_what_decode_makes_of_them(kind: str, data: st.DataObject) -> None:
    tokenizer = ALL[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=20))
    decoder = tokenizer.stream_decoder()
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == tokenizer.decode(ids)


def test_half_a_character_waits_for_the_other_half() -> None:
    decoder = ALL["bytes"].stream_decoder()
    first, second, third = "あ".encode()
    assert [decoder.push(first), decoder.within_character, decoder.push(second)] == ["", True, ""]
    assert [decoder.push(third), decoder.within_character] == ["あ", False]
    assert decoder.push(first) == ""
    assert decoder.finish() == "\ufffd"


@every_kind
def test_ids_outside_the_vocabulary_are_refused(kind: str) -> None:
    tokenizer = ALL[kind]
    for token in (-1, tokenizer.size, 1 << 40):
        with pytest.raises(TokenizerError, match=f"0 to {tokenizer.size - 1}; got {token}"):
            tokenizer.decode([token])


@every_kind
def test_half_a_surrogate_pair_is_refused(kind: str) -> None:
    with pytest.raises(TokenizerError, match="character 3 is half a surrogate pair"):
        ALL[kind].encode("abc\udc80")


def test_ids_that_no_token_has_decode_to_nothing() -> None:
    assert ALL["world"].decode([0, 65530, 65535]) == ""


def test_bytes_are_the_ids() -> None:
    assert ALL["bytes"].encode("é\n") == [0xC3, 0xA9, 0x0A]
    assert ALL["bytes"].decode([0xC3, 0xA9, 0xFF]) == "é\ufffd"
    with pytest.raises(TokenizerError, match="bytes 0 to 127 only; the text has byte 195"):
        load_tokenizer("bytes", 128).encode("é")


@every_kind
def test_every_kind_survives_storing_with_padding(kind: str) -> None:
    data = ALL[kind].to_data()
    padded = replace(data, arrays={name: np.concatenate([a, np.zeros(64, np.uint8)]) for name, a in data.arrays.items()})
    again = from_data(padded, ALL[kind].size)
    assert again.encode("stored and read again") == ALL[kind].encode("stored and read again")
    assert again.to_data().kind == kind


def test_the_table_is_the_documented_one() -> None:
    table = pack_table({0: b"ab", 2: b"\xff"})
    words = np.frombuffer(table[:20].tobytes(), "<u4")
    assert words.tolist() == [3, 0, 2, 2, 3]  # n, then n + 1 offsets
    assert table[20:].tobytes() == b"ab\xff"
    assert unpack_table(table) == [b"ab", b"", b"\xff"]


def _table(*words: int, blob: bytes = b"") -> np.ndarray:
    return np.frombuffer(np.array(words, "<u4").tobytes() + blob, np.uint8)


HOSTILE_TABLES = {
    "nothing": _table(),
    "only a count": _table(1),
    "no tokens": _table(0, 0),
    "a count far beyond the bytes": _table(0xFFFFFFFF, 0, 1),
    "offsets cut short": _table(2, 0, 1),
    "offsets cut within a word": _table(2, 0, blob=b"a"),
    "a first offset that is not 0": _table(1, 1, 1, blob=b"a"),
    "falling offsets": _table(2, 0, 2, 1, blob=b"ab"),
    "an end outside": _table(1, 0, 2, blob=b"a"),
    "a token of 100 kB": _table(1, 0, 100_000, blob=b"a" * 100_000),
    "floats": np.zeros(64, np.float32),
    "two axes": np.zeros((8, 8), np.uint8),
}


@pytest.mark.parametrize("name", HOSTILE_TABLES)
@pytest.mark.parametrize("kind", ["world", "bpe"])
def test_a_table_that_breaks_the_form_is_refused(kind: str, name: str) -> None:
    with pytest.raises(TokenizerError):
        from_data(TokenizerData(kind, {}, {"table": HOSTILE_TABLES[name], "merges": _table(0)}))


@pytest.mark.parametrize(
    "merges", [_table(), _table(1), _table(1, 0, 0), _table(0xFFFFFFFF, 0, 0, 0), _table(1, 0, 0, 2), _table(1, 9, 0, 0)]
)
def test_merges_that_break_the_form_are_refused(merges: np.ndarray) -> None:
    with pytest.raises(TokenizerError):
        from_data(TokenizerData("bpe", {}, {"table": pack_table({0: b"a", 1: b"b"}), "merges": merges}))


@pytest.mark.parametrize(
    "data",
    [
        TokenizerData("sentencepiece"),
        TokenizerData("world"),
        TokenizerData("bpe", {}, {"table": pack_table({0: b"a"})}),
        TokenizerData("bpe", {"special_tokens": 5}, {"table": pack_table({0: b"a"}), "merges": _table(0)}),
        TokenizerData("bytes", {}),
        TokenizerData("bytes", {"size": "256"}),
        TokenizerData("bytes", {"size": 0}),
    ],
)
def test_stored_data_of_no_known_form_is_refused(data: TokenizerData) -> None:
    with pytest.raises(TokenizerError):
        from_data(data)


@given(kind=st.sampled_from(["world", "bpe"]), table=st.binary(max_size=60), merges=st.binary(max_size=40), text=st.text(max_size=5))
def test_random_bytes_give_a_tokenizer_or_a_clear_error(kind: str, table: bytes, merges: bytes, text: str) -> None:
    arrays = {"table": np.frombuffer(table, np.uint8), "merges": np.frombuffer(merges, np.uint8)}
    try:
        tokenizer = from_data(TokenizerData(kind, {}, arrays))
        tokenizer.decode(tokenizer.encode(text))
    except TokenizerError:
        pass

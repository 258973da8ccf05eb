"""Byte-level BPE is the `tokenizers` package's, id for id; our reader names what it cannot express."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Judge
from tokenizers import decoders, models, pre_tokenizers, trainers

import rwkvquant
from rwkvquant.errors import TokenizerError
from rwkvquant.runtime.tokenizer import from_data, load_tokenizer
from rwkvquant.runtime.tokenizer_bpe import merge_word
from rwkvquant.runtime.tokenizer_json import OtherKindError, byte_characters, parse_tokenizer_json
from rwkvquant.runtime.tokenizer_words import split_words
from tests.runtime.unicode_ranges import EVERY_CHARACTER, unicode_ranges

FILE = Path(__file__).parents[1] / "data" / "tokenizer.json"
OURS = load_tokenizer(FILE, 4096)
TRICKY = " \n\t\u00a0\u3000\u2028'’stlvedrmABab019²٣Ⅷ.,!?-中日ñe\u0301\u200d😀\U00010d40\x1c\x85"


@pytest.fixture(scope="module")
def judge() -> Judge:
    """What we promise: special tokens in a text are plain text."""
    tokenizer = Judge.from_file(str(FILE))
    tokenizer.encode_special_tokens = True
    return tokenizer


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.text(alphabet=TRICKY, max_size=60) | st.from_regex(r"([a-z]{1,9}('ll|'s)? {0,3}){0,12}", fullmatch=True))
def test_encoding_is_the_tokenizers_packages_on_arbitrary_unicode(judge: Judge, text: str) -> None:
    ids = OURS.encode(text)
    assert ids == judge.encode(text).ids
    assert OURS.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 4095), max_size=30))
def test_decoding_is_the_tokenizers_packages_for_any_ids(judge: Judge, ids: list[int]) -> None:
    assert OURS.decode(ids) == judge.decode(ids)


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.integers(0, 3), max_size=14),
    merges=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True, max_size=10),
    results=st.lists(st.integers(0, 9), min_size=10, max_size=10),
)
def test_merging_with_a_heap_is_the_definition(ids: list[int], merges: list[tuple[int, int]], results: list[int]) -> None:
    """The definition: while there is one, the strongest pair, and of equal ones the leftmost, becomes one token."""
    growing = {
        pair: (rank, 10 + rank + results[rank]) for rank, pair in enumerate(merges)
    }  # merged ids never merge: any rank order is well defined
    growing |= {(10 + a, b): (20 + a, 40 + a) for a in range(3) for b in range(3)}
    expected = list(ids)
    while pairs := [(growing[pair][0], at) for at, pair in enumerate(itertools.pairwise(expected)) if pair in growing]:
        _, at = min(pairs)
        expected[at : at + 2] = [growing[expected[at], expected[at + 1]][1]]
    assert merge_word(ids, growing) == expected


def test_a_long_word_is_not_quadratic(judge: Judge) -> None:
    text = "theinsofander" * 6_000  # 78,000 letters in one word; a quadratic merge would take an hour
    assert OURS.encode(text) == judge.encode(text).ids


def test_special_tokens_in_a_text_are_plain_text_and_decode_to_nothing(judge: Judge) -> None:
    text = "before<|eod|>after"
    assert OURS.encode(text) == judge.encode(text).ids
    assert 0 not in OURS.encode(text)
    assert OURS.decode(OURS.encode(text)) == text
    assert OURS.decode([0]) == judge.decode([0]) == ""


def test_letters_numbers_and_spaces_are_those_of_the_tokenizers_package() -> None:
    stored = Path(rwkvquant.__file__).with_name("assets").joinpath("unicode_ranges.txt").read_text(encoding="ascii")
    assert stored == unicode_ranges()


def test_words_are_cut_as_the_tokenizers_package_cuts_them() -> None:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for text in (EVERY_CHARACTER, "it's we'll I've they're 'd'm x't 'S", "a  b \n\n c\t", "x²y 12ab٣", " leading", "trailing  "):
        assert split_words(text) == [text[begin:end] for _, (begin, end) in level.pre_tokenize_str(text)]


def test_the_byte_letters_are_those_of_the_tokenizers_package() -> None:
    assert sorted(byte_characters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    for byte in (b"\x00", b" ", b"\n", b"\x7f", b"A"):
        assert byte_characters()[byte[0]] == pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(byte.decode())[0][0]


def test_a_prefix_space_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    ours, judge = _changed(tmp_path, lambda root: root["pre_tokenizer"].update(add_prefix_space=True))
    for text in ("", "word", " word", "\nword", "two words"):
        assert ours.encode(text) == judge.encode(text).ids
    assert from_data(ours.to_data()).encode("word") == ours.encode("word")


def test_merges_may_be_written_as_strings(tmp_path: Path) -> None:
    ours, judge = _changed(tmp_path, lambda root: root["model"].update(merges=[" ".join(pair) for pair in root["model"]["merges"]]))
    assert ours.encode("old files") == judge.encode("old files").ids == OURS.encode("old files")


def test_a_byte_no_token_has_is_left_out_as_the_tokenizers_package_does(tmp_path: Path) -> None:
    judge = Judge(models.BPE())
    judge.pre_tokenizer, judge.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    judge.train_from_iterator(["abab abba baab " * 9], trainers.BpeTrainer(vocab_size=12, special_tokens=["<end>"], show_progress=False))
    judge.save(str(tmp_path / "tiny.json"))
    ours = load_tokenizer(tmp_path / "tiny.json", 300)
    for text in ("abba", "a?b", "axb ab", "é"):
        assert ours.encode(text) == judge.encode(text).ids


def test_what_is_stored_makes_the_same_tokenizer_again() -> None:
    data = OURS.to_data()
    again = from_data(data, 4096)
    text = "Once upon a time, naïve 東京 don't"
    assert again.encode(text) == OURS.encode(text)
    assert json.loads(json.dumps(data.meta)) == {"special_tokens": {"<|eod|>": 0}, "add_prefix_space": False}
    merges = np.frombuffer(data.arrays["merges"].tobytes(), "<u4")
    vocabulary = json.loads(FILE.read_text(encoding="utf-8"))["model"]["vocab"]
    assert merges[0] == 3839
    assert merges[1:4].tolist() == [vocabulary["Ġ"], vocabulary["t"], vocabulary["Ġt"]]  # the first merge of the file


OTHER_KINDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "WordPiece": (lambda root: root["model"].update(type="WordPiece"), "the model WordPiece"),
    "normalizer": (lambda root: root.update(normalizer={"type": "NFKC"}), "the normalizer NFKC"),
    "normalizers": (lambda root: root.update(normalizer={"type": "Sequence", "normalizers": []}), "the normalizer Sequence"),
    "Split": (lambda root: root.update(pre_tokenizer={"type": "Sequence", "pretokenizers": []}), "the pre_tokenizer Sequence"),
    "no pre_tokenizer": (lambda root: root.update(pre_tokenizer=None), "the pre_tokenizer None"),
    "no regex": (lambda root: root["pre_tokenizer"].update(use_regex=False), "without use_regex"),
    "decoder": (lambda root: root.update(decoder={"type": "Metaspace"}), "the decoder Metaspace"),
    "byte_fallback": (lambda root: root["model"].update(byte_fallback=True), "the BPE option byte_fallback"),
    "dropout": (lambda root: root["model"].update(dropout=0.1), "the BPE option dropout"),
    "single_word": (lambda root: root["added_tokens"][0].update(single_word=True), "the added token '<|eod|>' with single_word"),
    "lstrip": (lambda root: root["added_tokens"][0].update(lstrip=True), "the added token '<|eod|>'"),
    "not bytes": (lambda root: root["model"]["vocab"].update({"日": 4095}), "the token '日'"),
    "unknown merge": (lambda root: root["model"]["merges"].append(["t", "zzzzz"]), "zzzzz"),
    "no model": (lambda root: root.pop("model"), "in this tokenizer.json 'model' is missing or wrong"),
    "a list for the vocabulary": (lambda root: root["model"].update(vocab=["a"]), "is missing or wrong"),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_our_reader_refuses_another_kind_by_name(tmp_path: Path, name: str) -> None:
    change, part = OTHER_KINDS[name]
    root = json.loads(FILE.read_text(encoding="utf-8"))
    change(root)
    with pytest.raises(OtherKindError) as caught:
        parse_tokenizer_json(json.dumps(root))
    assert part in str(caught.value)


@pytest.mark.parametrize("index", [7.5, 1 << 40, -1, True])
def test_an_id_that_is_no_id_is_refused(tmp_path: Path, index: Any) -> None:
    with pytest.raises(TokenizerError, match=f"token ids are whole numbers .*'zzz' {index}.*{tmp_path}"):
        _changed(tmp_path, lambda root: root["model"]["vocab"].update({"zzz": index}), judged=False)


def test_a_file_that_is_not_json_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{\n "model": {,}\n}')
    with pytest.raises(TokenizerError, match="line 2"):
        load_tokenizer(tmp_path / "broken.json", 4096)


def _changed(directory: Path, change: Callable[[dict[str, Any]], object], judged: bool = True) -> tuple[Any, Any]:
    root = json.loads(FILE.read_text(encoding="utf-8"))
    change(root)
    path = directory / "changed.json"
    path.write_text(json.dumps(root), encoding="utf-8")
    return load_tokenizer(path, 4096), Judge.from_file(str(path)) if judged else None

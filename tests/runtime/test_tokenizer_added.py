"""Added tokens and NFC give the ids of the `tokenizers` package, with special tokens as plain text; they survive packing."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Judge

from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer import Tokenizer, from_data, load_tokenizer
from rwkvquant.runtime.tokenizer_added import AddedToken, AddedTokens

FILE = Path(__file__).parents[1] / "data" / "tokenizer.json"
FIRST_ID = 4096  # the file's own ids end before
SIZE = 4200
NFC = {"type": "NFC"}
# Spaces, letters with marks (composed, and in both orders of two marks), Hangul in parts, CJK with a compatibility form, emoji.
PIECES = [
    *(" ", "  ", "    ", "\n", "\t", "the", "cat", "a", "ab", "abc", "b", "'s", "1", "<|eod|>", "<|eo", "d|>", "<x>"),
    *("é", "e\u0301", "a\u0323\u0302", "a\u0302\u0323", "\u0344", "\u0301", "Å", "\u212b"),
    *("\u1112\u1161\u11ab", "한", "中文", "\uf900", "豈", "😀", "👩\u200d👩\u200d👧", "🏽"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def added(content: str, *, special: bool = False, normalized: bool = True) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"content": content, "special": special, "normalized": normalized, **flags}


NEOX = [added(" " * n) for n in range(2, 25)]
OVERLAPPING = [added("ab"), added("abc", normalized=False), added("bcat", special=True, normalized=False), added("catthe"), added("b")]
MARKS = [added("e\u0301"), added("Å", normalized=False), added("\u212b"), added("a\u0302\u0323", normalized=False), added("한")]
SHADOWED = [added("<|eod|>the", normalized=False), added("d|>"), added("<x>", special=True), added("x>", normalized=True), added("😀")]
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, str] | None, bool]] = {
    "GPT-NeoX": (NEOX, NFC, False),
    "NFC alone": ([], NFC, False),
    "overlapping": (OVERLAPPING, None, False),
    "overlapping with NFC and a prefix space": (OVERLAPPING, NFC, True),
    "marks": (MARKS, NFC, False),
    "marks without NFC": (MARKS, None, False),
    "special tokens in the way": (SHADOWED, NFC, True),
}


def write(path: Path, tokens: list[dict[str, Any]], normalizer: dict[str, str] | None, prefix_space: bool = False) -> Path:
    root = json.loads(FILE.read_text(encoding="utf-8"))
    known, new = root["model"]["vocab"], itertools.count(FIRST_ID)  # as the tokenizers package gives ids
    root["added_tokens"] += [{"id": known[token["content"]] if token["content"] in known else next(new), **token} for token in tokens]
    root["normalizer"] = normalizer
    root["pre_tokenizer"]["add_prefix_space"] = prefix_space
    path.write_text(json.dumps(root), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Judge]]:
    """Ours, packed and unpacked once, and the `tokenizers` package's."""
    found = {}
    for name, case in CASES.items():
        path = write(tmp_path_factory.mktemp("added") / "tokenizer.json", *case)
        data = load_tokenizer(path, SIZE).to_data()
        stored = TokenizerData(data.kind, json.loads(json.dumps(data.meta)), data.arrays)
        judge = Judge.from_file(str(path))
        judge.encode_special_tokens = True
        found[name] = from_data(stored, SIZE), judge
    return found


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_ids_are_the_tokenizers_packages(pairs: dict[str, tuple[Tokenizer, Judge]], name: str, text: str) -> None:
    ours, judge = pairs[name]
    assert ours.encode(text) == judge.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["GPT-NeoX", "marks"])
def test_ids_are_the_tokenizers_packages_for_the_marks_of_many_scripts(pairs: dict[str, tuple[Tokenizer, Judge]], name: str) -> None:
    """Every letter of the older blocks that composes, alone and after others, in an order drawn at random."""
    ours, judge = pairs[name]
    # Marks from after Unicode 9 are unknown to the tokenizers package: tokenizer_added.py says so. Unicode 3.2 is old enough for both.
    blocks = [*range(0x20, 0x3400), *range(0xAC00, 0xAD00), *range(0xF900, 0xFB50)]
    characters = [chr(code) for code in blocks if unicodedata.ucd_3_2_0.category(chr(code))[0] != "C"]
    composing = [c for c in characters if unicodedata.combining(c) or unicodedata.normalize("NFC", c) != c or unicodedata.decomposition(c)]
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice(rng.choice((characters, composing))) for _ in range(40))
        assert ours.encode(text) == judge.encode(text, add_special_tokens=False).ids


def test_a_text_comes_back_normalised(pairs: dict[str, tuple[Tokenizer, Judge]]) -> None:
    ours, _ = pairs["GPT-NeoX"]
    text = "the   cat\n     e\u0301 <|eod|> 中文 😀"
    assert ours.decode(ours.encode(text)) == unicodedata.normalize("NFC", text)
    assert FIRST_ID + 1 in ours.encode(text)  # three spaces


def test_tokens_and_nfc_are_a_kind_of_their_own_and_plain_files_stay_what_they_were(tmp_path: Path) -> None:
    """A reader that knows only bpe must refuse the file, not pass over the keys."""
    assert load_tokenizer(write(tmp_path / "a.json", [], None), SIZE).to_data().kind == "bpe"
    assert load_tokenizer(write(tmp_path / "b.json", [added("<y>", special=True)], None), SIZE).to_data().kind == "bpe"
    for tokens, normalizer in (([added("  ")], None), ([], NFC)):
        data = load_tokenizer(write(tmp_path / "c.json", tokens, normalizer), SIZE).to_data()
        assert data.kind == "bpe-added" and data.meta.keys() == {"special_tokens", "add_prefix_space", "normalizer", "added_tokens"}


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"normalizer": "NFKC"}, "NFC or none; got 'NFKC'"),
        ({"normalizer": ["NFC"]}, "NFC or none"),
        ({"added_tokens": None}, "is a list; got NoneType"),
        ({"added_tokens": [["  ", 5000, True, False]]}, "id below"),
        ({"added_tokens": [["  ", -1, True, False]]}, "id below"),
        ({"added_tokens": [["  ", True, True, False]]}, "id below"),
        ({"added_tokens": [["  ", 3, True]]}, "id below"),
        ({"added_tokens": ["  "]}, "id below"),
        ({"added_tokens": [["", 3, True, False]]}, "1 to 256 characters"),
        ({"added_tokens": [["a" * 257, 3, True, False]]}, "1 to 256 characters"),
        ({"added_tokens": [["a", 3, True, False]] * 5000}, "at most 4096 added tokens"),
    ],
    ids=str,
)
def test_stored_added_tokens_that_cannot_be_are_refused(tmp_path: Path, meta: dict[str, Any], said: str) -> None:
    data = load_tokenizer(write(tmp_path / "a.json", NEOX, NFC), SIZE).to_data()
    with pytest.raises(TokenizerError, match=said):
        from_data(TokenizerData(data.kind, data.meta | meta, data.arrays), SIZE)


def test_an_added_token_with_two_ids_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [added("a")], None)
    root = json.loads(path.read_text(encoding="utf-8"))
    root["added_tokens"][-1]["id"] += 1
    path.write_text(json.dumps(root), encoding="utf-8")
    with pytest.raises(TokenizerError, match="gives 'a' two ids"):
        load_tokenizer(path, SIZE)


def test_many_tokens_that_begin_alike_cost_no_more_than_their_lengths() -> None:
    """A pattern of all of them would compare each at each place: an hour for this text."""
    tokens = AddedTokens([AddedToken("a" * 200 + f"b{i:x}", i, False, False) for i in range(4096)])
    text = "a" * 100_000
    assert list(tokens.split(text)) == [text]

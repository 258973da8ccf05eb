"""A tokenizer.json that would cost too much, or that is no tokenizer, is refused in one sentence before the package sees it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from rwkvquant.errors import RwkvQuantError, TokenizerError
from rwkvquant.runtime.tokenizer_file import parse
from rwkvquant.runtime.tokenizer_limits import MAX_BYTES, check_limits
from tests.fuzz.choices import Choices
from tests.fuzz.json_tree import mutate
from tests.runtime.trained_tokenizers import IDS, OTHERS, trained

DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def charsmap(*forms: bytes, trie: int = 8) -> str:
    return base64.b64encode((trie).to_bytes(4, "little") + bytes(8) + b"\0".join(forms)).decode()


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a text doubled forty times": (
        lambda root: root.update(normalizer={"type": "Sequence", "normalizers": [DOUBLE] * 40}),
        r"the normalizer of this tokenizer\.json may make a text 1\.1e\+12 times longer",
    ),
    "a long text in every gap": (
        lambda root: root.update(normalizer={"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y" * 1000}),
        "1e[+]03 times longer",
    ),
    "the same while decoding": (
        lambda root: root.update(decoder={"type": "Sequence", "decoders": [DOUBLE] * 9}),
        "the decoder .* 512 times longer",
    ),
    "bytes as letters, again and again": (
        lambda root: root.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [LEVEL] * 9}),
        "the pre_tokenizer .* 512 times longer",
    ),
    "very many parts": (
        lambda root: root.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}),
        "at most 64 parts; this one has 101",
    ),
    "a long regular expression": (
        lambda root: root.update(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "a?" * 5000}, "behavior": "Isolated", "invert": False}
        ),
        "'Regex' in the pre_tokenizer .* at most 4096 characters; got 10000",
    ),
    "a table with a long text": (
        lambda root: root.update(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"a", b"b" * 300)}),
        "at most 256 bytes; this one has 300",
    ),
    "a table that ends early": (
        lambda root: root.update(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(trie=1 << 31)}),
        "precompiled_charsmap .* this one has 12 bytes",
    ),
    "a table that is no base64": (
        lambda root: root.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "~"}),
        "base64",
    ),
    "random ids": (lambda root: root["model"].update(dropout=0.1), "dropout=0.1"),
    "a long suffix for every letter": (lambda root: root["model"].update(end_of_word_suffix="x" * 65), "at most 64 characters; got 65"),
    "a vocabulary that is a number": (lambda root: root["model"].update(vocab=5), "vocab .* a mapping or a list; got 5"),
    "a model that is a list": (lambda root: root.update(model=[]), "the model .* object; got"),
    "an id beyond all": (lambda root: root["model"]["vocab"].update({"zzz": 1 << 24}), "whole numbers from 0 to 16777215"),
    "an id that is a text": (lambda root: root["model"]["vocab"].update({"zzz": "1"}), "'zzz' '1'"),
    "a token of 100 kB": (lambda root: root["model"]["vocab"].update({"z" * 100_000: 1}), "at most 65536 characters"),
    "an added token that is a number": (lambda root: root.update(added_tokens=[7]), "7 None"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_breaks_a_rule_is_refused(name: str) -> None:
    change, words = HOSTILE[name]
    root = json.loads(trained("GPT-4"))
    change(root)
    with pytest.raises(TokenizerError, match=words) as caught:
        check_limits(json.dumps(root))
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", OTHERS)
def test_real_files_keep_all_rules(kind: str) -> None:
    check_limits(trained(kind))


def test_a_table_of_real_form_is_taken() -> None:
    root = json.loads(trained("unigram"))
    root["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap(b"a", "\ufdfa".encode() * 11, b"")}
    check_limits(json.dumps(root))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{" + " " * MAX_BYTES, "at most 64 MB"),
        ('{"model": ' * 100_000, "not valid JSON"),
        ('{"a": ' + "9" * 10_000 + "}", "not valid JSON"),
        ('{"model": {}, "model": {}}', "the key 'model' is there twice"),
        ('{"model": {"vocab": {}}, "a": NaN}', "not a number"),
        ("[]", "JSON object"),
        ('{"model": {"vocab": {}}', "not valid JSON"),
    ],
)
def test_text_that_is_no_json_object_is_refused(text: str, words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        check_limits(text)
    with pytest.raises(TokenizerError):
        parse(text, IDS, "a file", ())


def test_any_change_of_a_file_gives_a_tokenizer_or_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """Changes outside the vocabulary, which would take most of them."""
    rng = random.Random(11)
    choices, taken = Choices(rng.randrange), 0
    for _ in range(1500):
        root = json.loads(trained(rng.choice(OTHERS)))
        kept = {key: root["model"].pop(key) for key in ("vocab", "merges") if key in root["model"]}
        for _ in range(rng.choice([1, 1, 2, 3])):
            mutate(root, choices)
        if isinstance(root.get("model"), dict):
            root["model"] |= kept
        try:
            tokenizer = parse(json.dumps(root), IDS, "a file", ())
            tokenizer.decode([*tokenizer.encode("the 😀 İ cafe\u0301 ##!"), *range(40)])
            taken += 1
        except RwkvQuantError as error:
            assert "\n" not in str(error)
    assert 100 < taken < 1400

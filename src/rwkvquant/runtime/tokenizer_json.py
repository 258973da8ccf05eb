"""Reads a `tokenizer.json` of the `tokenizers` package, if it is byte-level BPE that we can express; any other kind is refused by name.

That is: model BPE, pre_tokenizer and decoder ByteLevel with its regular expression, normalizer NFC or none, added tokens without
single_word, lstrip and rstrip. tokenizer_package.py reads the others. `truncation` and `padding` are ignored: they are about batches, not
about how text becomes tokens. So is `post_processor`: it adds special tokens, which we never do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.errors import TokenizerError
from rwkvquant.runtime.tokenizer_added import NORMALIZERS, AddedToken, AddedTokens
from rwkvquant.runtime.tokenizer_bpe import BpeTokenizer
from rwkvquant.runtime.tokenizer_table import MAX_TOKENS


class OtherKindError(TokenizerError):
    """A tokenizer.json that we cannot express; the `tokenizers` package may read it. The message names the part."""


def parse_tokenizer_json(text: str, size: int | None = None) -> BpeTokenizer:
    """Raises OtherKindError for one of another kind, TokenizerError if the text is not JSON or has ids that are no ids."""
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"a tokenizer.json is JSON; this file is not ({error})") from None
    try:
        _require_byte_level_bpe(root)
        return _build(root, size)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise OtherKindError(f"in this tokenizer.json {str(error)[:80]} is missing or wrong") from None


def _require_byte_level_bpe(root: dict[str, Any]) -> None:
    model, pre_tokenizer = root["model"], root["pre_tokenizer"]
    found = {
        "model": model.get("type", "BPE"),
        "normalizer": _kind(root.get("normalizer")),
        "pre_tokenizer": _kind(pre_tokenizer),
        "decoder": _kind(root.get("decoder")),
    }
    allowed = {"model": ("BPE",), "normalizer": NORMALIZERS, "pre_tokenizer": ("ByteLevel",), "decoder": (None, "ByteLevel")}
    for part, kind in found.items():
        if kind not in allowed[part]:
            raise OtherKindError(f"this tokenizer.json has the {part} {kind}")
    if not pre_tokenizer.get("use_regex", True):
        raise OtherKindError("this tokenizer.json has the pre_tokenizer ByteLevel without use_regex")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(option):
            raise OtherKindError(f"this tokenizer.json has the BPE option {option}={str(model[option])[:80]}")
    for token in root.get("added_tokens") or []:
        for option in ("single_word", "lstrip", "rstrip"):
            if token[option]:
                raise OtherKindError(f"this tokenizer.json has the added token {token['content']!r} with {option}")


def _kind(part: dict[str, Any] | None) -> str | None:
    return None if part is None else part["type"]


def _build(root: dict[str, Any], size: int | None) -> BpeTokenizer:
    vocabulary: dict[str, int] = root["model"]["vocab"]
    added = [AddedToken(t["content"], t["id"], bool(t["normalized"]), bool(t["special"])) for t in root.get("added_tokens") or []]
    special = {token.content: token.id for token in added if token.special}
    contents = {token.content: token.id for token in added}
    for content, index in (vocabulary | contents).items():
        if type(index) is not int or not 0 <= index < MAX_TOKENS:
            raise TokenizerError(f"token ids are whole numbers from 0 to {MAX_TOKENS - 1}; this tokenizer.json gives {content!r} {index!r}")
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    tokens = [b""] * (max([*vocabulary.values(), *contents.values()], default=-1) + 1)
    for content, index in vocabulary.items():
        if index != contents.get(content, index):
            raise TokenizerError(f"this tokenizer.json gives {content!r} two ids, {index} and {contents[content]}")
        if content in special:
            continue
        if set(content) <= byte_of.keys():
            tokens[index] = bytes(byte_of[character] for character in content)
        elif content not in contents:
            raise OtherKindError(f"this tokenizer.json has the token {content!r}, which is not in byte-level letters")
    for token in added:
        if not token.special and not tokens[token.id]:  # an added token may be one of the vocabulary's: then it keeps those bytes
            tokens[token.id] = token.content.encode("utf-8")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in root["model"]["merges"]]
    merges = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in pairs]
    array = np.array(merges, np.uint32).reshape(-1, 3)
    prefix_space = bool(root["pre_tokenizer"].get("add_prefix_space"))
    try:
        changes = AddedTokens(added, _kind(root.get("normalizer")))
    except TokenizerError as error:  # more or longer added tokens than our search takes
        raise OtherKindError(str(error)) from None
    return BpeTokenizer(tokens, array, special, prefix_space, size, changes)


def is_conversion_of(path: Path, tokens: Sequence[bytes]) -> bool:
    """Whether a tokenizer.json of any kind holds these tokens under these ids; up to half may differ or be missing.

    Tokens may be written as text or in byte-level letters. False for a file that cannot be understood.
    """
    try:
        vocabulary = json.loads(path.read_bytes())["model"]["vocab"]
        entries = [(content, index) for content, index in vocabulary.items() if type(index) is int and 0 <= index < len(tokens)]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return False
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    same = 0
    for content, index in entries:
        in_letters = bytes(byte_of[c] for c in content) if set(content) <= byte_of.keys() else None
        same += tokens[index] in (content.encode("utf-8", "replace"), in_letters)
    return 2 * same > len(tokens)


def byte_characters() -> str:
    """The letter for each byte in the vocabulary: printable Latin-1 stands for itself, the others are U+0100, U+0101, ... in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))

"""What a tokenizer.json may hold that the `tokenizers` package reads for us. Such a file may have been made to do harm.

The package checks types. It does not bound what a file may cost: a normalizer that doubles the text, forty times in a row, needs more
memory than there is. Checked here, before the package sees the file:

- JSON without keys twice, at most MAX_BYTES, with ids below MAX_TOKENS and tokens of at most MAX_TOKEN_BYTES
- no `dropout`: its ids are random
- a text becomes at most MAX_GROWTH times longer, by normalizer, pre_tokenizer or decoder
- texts in these parts of at most MAX_TEXT characters, and at most MAX_PARTS parts

Not bounded: the time of a regular expression. The package's library gives up after ten million steps at one place of a text.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from rwkvquant.errors import FormatError, TokenizerError
from rwkvquant.formats import strict_json
from rwkvquant.formats.strict_json import shown
from rwkvquant.runtime.tokenizer_table import MAX_TOKEN_BYTES, MAX_TOKENS

MAX_BYTES = 64 << 20  # the largest files in use have 20 to 35 MB
MAX_PARTS = 64
MAX_TEXT = 4096  # regular expressions in use have up to 400 characters
MAX_GROWTH = 256
MAX_FORM = 256  # bytes that a "Precompiled" table may put in the place of one character; NFKC needs 33
MAX_AFFIX = 64  # characters of BPE's continuing_subword_prefix and end_of_word_suffix, which every character of a word may get
STEPS = ("normalizer", "pre_tokenizer", "decoder")


def check_limits(text: str) -> None:
    """Raises TokenizerError for a text that breaks one of the rules above."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise TokenizerError(f"a tokenizer.json has at most {MAX_BYTES >> 20} MB; this one has {size >> 20}")
    try:
        root = strict_json.parse_object(text, "a tokenizer.json")
    except FormatError as error:
        raise TokenizerError(str(error)) from None
    model = root.get("model")
    if not isinstance(model, dict):
        raise TokenizerError(f"the model of a tokenizer.json is a JSON object; got {shown(model)}")
    _check_tokens(itertools.chain(_vocabulary(model.get("vocab")), _added(root.get("added_tokens"))))
    if model.get("dropout"):
        raise TokenizerError(f"this tokenizer.json has dropout={shown(model['dropout'])}, which makes ids random; set it to null")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(str(model.get(affix) or "")) > MAX_AFFIX:
            raise TokenizerError(f"{affix} of a tokenizer.json has at most {MAX_AFFIX} characters; got {len(str(model[affix]))}")
    for step in STEPS:
        _check_step(step, root.get(step))


def _check_tokens(tokens: Iterable[tuple[Any, Any]]) -> None:
    for content, index in tokens:
        if type(index) is not int or not 0 <= index < MAX_TOKENS:
            rule = f"token ids are whole numbers from 0 to {MAX_TOKENS - 1}"
            raise TokenizerError(f"{rule}; this tokenizer.json gives {shown(content)} {shown(index)}")
        if not isinstance(content, str) or len(content) > MAX_TOKEN_BYTES:
            raise TokenizerError(f"a token is text of at most {MAX_TOKEN_BYTES} characters; got {shown(content)}")


def _vocabulary(vocabulary: Any) -> Iterator[tuple[Any, Any]]:
    """(content, id): of a mapping, or of Unigram's list [[content, score], ...]."""
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list):
        for index, entry in enumerate(vocabulary):
            yield (entry[0] if isinstance(entry, list) and entry else entry), index
    else:
        raise TokenizerError(f"the vocab of a tokenizer.json is a mapping or a list; got {shown(vocabulary)}")


def _added(tokens: Any) -> Iterator[tuple[Any, Any]]:
    for token in tokens if isinstance(tokens, list) else ():
        yield (token.get("content"), token.get("id")) if isinstance(token, dict) else (token, None)


def _check_step(step: str, tree: Any) -> None:
    parts = list(_parts(tree))
    if (count := sum("type" in part for part in parts)) > MAX_PARTS:
        raise TokenizerError(f"the {step} of a tokenizer.json has at most {MAX_PARTS} parts; this one has {count}")
    growth = 1.0
    for part in parts:
        growth *= _growth(part)
        for key, value in part.items():
            if isinstance(value, str) and len(value) > MAX_TEXT and key != "precompiled_charsmap":
                raise TokenizerError(f"{shown(key)} in the {step} of a tokenizer.json has at most {MAX_TEXT} characters; got {len(value)}")
        if part.get("precompiled_charsmap"):
            _check_forms(part["precompiled_charsmap"])
    if growth > MAX_GROWTH:
        raise TokenizerError(f"the {step} of this tokenizer.json may make a text {growth:.3g} times longer; at most {MAX_GROWTH} is read")


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in the tree, whatever its key."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
        if isinstance(node, dict | list):
            stack += node.values() if isinstance(node, dict) else node


def _growth(part: dict[str, Any]) -> float:
    """How many times longer one part may make a text, in bytes."""
    if part.get("type") == "ByteLevel":
        return 2.0
    content, pattern = part.get("content"), part.get("pattern")
    if part.get("type") != "Replace" or not isinstance(content, str):
        return 1.0
    written = len(content.encode("utf-8", "surrogatepass"))
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(literal, str) and literal:
        return max(1.0, written / len(literal.encode("utf-8", "surrogatepass")))
    return 1.0 + written  # a regular expression may find nothing before each character


def _check_forms(charsmap: Any) -> None:
    """SentencePiece's table: u32 length of a trie, the trie, then texts that end with a zero byte."""
    try:
        table = base64.b64decode(charsmap, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise TokenizerError("precompiled_charsmap of a tokenizer.json is base64; this one is not") from None
    start = 4 + int.from_bytes(table[:4], "little")
    if len(table) < 4 or start > len(table) or start % 4 or start < 8:
        raise TokenizerError(f"precompiled_charsmap of a tokenizer.json is a length, a table and texts; this one has {len(table)} bytes")
    if (longest := max(map(len, table[start:].split(b"\0")))) > MAX_FORM:
        raise TokenizerError(f"precompiled_charsmap may replace a character by at most {MAX_FORM} bytes; this one has {longest}")

"""The tokenizer in a GGUF file's header, as text that runtime/tokenizer.py reads: a World vocabulary, or a tokenizer.json.

tokenizer.ggml.model   "rwkv": tokens are bytes as Python shows them, without b and quotes; the first is a stand-in for id 0
                       "gpt2": byte-level BPE; tokens and merges as in a tokenizer.json
tokenizer.ggml.pre     how "gpt2" cuts words: "smollm" takes each digit alone first; "gpt-2", "default" or nothing do not
token_type             1 normal, 3 control, 5 unused (padding up to the model's vocabulary), others as normal
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

NORMAL, CONTROL, UNUSED = 1, 3, 5
PLAIN, DIGITS_ALONE = ("default", "gpt-2"), "smollm"
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
LETTERS = {"t": b"\t", "n": b"\n", "r": b"\r"}


@dataclass(frozen=True)
class EmbeddedTokenizer:
    """The text of a tokenizer's file, which lies inside a checkpoint."""

    text: str


def tokenizer_text(entries: dict[str, Any]) -> EmbeddedTokenizer | None:
    """None where the header has no tokenizer of these two kinds. What is wrong with one is said by who reads the text."""
    tokens, types, merges = (_items(entries.get(f"tokenizer.ggml.{name}")) for name in ("tokens", "token_type", "merges"))
    if not _strings(tokens):
        return None
    if len(types) != len(tokens):
        types = [NORMAL] * len(tokens)
    if entries.get("tokenizer.ggml.model") == "rwkv":
        return EmbeddedTokenizer("\n".join(_world_lines(tokens, types)))
    if entries.get("tokenizer.ggml.model") == "gpt2" and _strings(merges):
        pre = entries.get("tokenizer.ggml.pre", "default")
        if pre in (*PLAIN, DIGITS_ALONE):
            return EmbeddedTokenizer(json.dumps(_tokenizer_json(tokens, types, merges, pre == DIGITS_ALONE)))
    return None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _strings(items: list[Any]) -> bool:
    """The items of an array are all of one kind."""
    return bool(items) and isinstance(items[0], str)


def _world_lines(tokens: list[str], types: list[Any]) -> list[str]:
    lines = []
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        value = unescaped(token)
        if kind not in (CONTROL, UNUSED) and value:
            lines.append(f"{i} {value!r} {len(value)}")
    return lines


def unescaped(token: str) -> bytes:
    r"""r"\xe4\n" -> b"\xe4\n", as llama.cpp reads it: any other letter after a backslash is itself."""
    found, at = [], 0
    for match in ESCAPE.finditer(token):
        found.append(token[at : match.start()].encode())
        letter = match[1]
        found.append(bytes([int(letter[1:], 16)]) if len(letter) == 3 else LETTERS.get(letter, letter.encode()))
        at = match.end()
    return b"".join([*found, token[at:].encode()])


def escaped(token: bytes) -> str:
    """The way back."""
    return repr(token)[2:-1]


def _tokenizer_json(tokens: list[str], types: list[Any], merges: list[str], digits_alone: bool) -> dict[str, Any]:
    kept = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [{"id": i, "content": token, **plain} for token, i in kept.items() if types[i] == CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]} if digits_alone else byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": kept, "merges": merges},
    }

"""Small tokenizer.json of kinds that a packed file keeps whole: Unigram, WordPiece, and BPE with another way to cut words."""

from __future__ import annotations

from typing import Any

UNIGRAM: dict[str, Any] = {
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "decoder": {
        "type": "Sequence",
        "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": "▁", "start": 1, "stop": 0}],
    },
    "model": {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [["<unk>", 0.0], ["▁", -1.0], ["!", -2.5], ["!!", -3.0]],
        "byte_fallback": False,
    },
}
WORDPIECE: dict[str, Any] = {
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[UNK]": 0, "%": 1, "##!": 2, "!": 3},
    },
}
BPE: dict[str, Any] = {
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "!"}]},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "!+|%"}, "behavior": "Isolated", "invert": False},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "%",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {"%": 0, "!": 1, "!!": 2},
        "merges": [["!", "!"]],
    },
}
REST = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None}
TOKENIZERS = tuple(REST | parts for parts in (UNIGRAM, WORDPIECE, BPE))

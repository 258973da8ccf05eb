"""Small tokenizers of many kinds, trained with the `tokenizers` package on the text in the package of rwkvquant."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # published
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
OTHERS = ("unigram", "wordpiece", "byte fallback", "GPT-4", "words", "suffix")  # kinds that our own reader cannot express
IDS = 1000  # more than any has


@functools.cache
def trained(kind: str) -> str:
    """The tokenizer.json of a kind: "byte-level" (GPT-2's and GPT-NeoX's), or one of OTHERS."""
    tokenizer, trainer = _make(kind)
    text = (resources.files("rwkvquant") / "assets" / "calibration.txt").read_text(encoding="utf-8")[:40_000]
    tokenizer.train_from_iterator([*text.split("\n"), *["naïve café 北京 x² def f(x):\n    return  1"] * 20], trainer)
    root = json.loads(tokenizer.to_str())
    root["added_tokens"] = [token for token in root["added_tokens"] if token["content"] not in BYTES]  # plain tokens, as in Llama 2's
    return json.dumps(root)


def package_of(kind: str) -> Tokenizer:
    """The package's tokenizer; a special token in a text is plain text, as we promise."""
    tokenizer = Tokenizer.from_str(trained(kind))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _make(kind: str) -> tuple[Tokenizer, Any]:
    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder, tokenizer.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=True)
        return tokenizer, _bpe(["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    if kind == "GPT-4":
        tokenizer = Tokenizer(models.BPE())
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), level])
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer, _bpe(["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        return tokenizer, trainers.UnigramTrainer(vocab_size=500, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False)
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
        return tokenizer, trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    if kind == "byte fallback":  # Llama 2's
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(parts)
        return tokenizer, _bpe(["<unk>", "<s>", "</s>", *BYTES], vocab_size=800)
    if kind == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return tokenizer, trainers.WordLevelTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    assert kind == "suffix"  # CLIP's
    tokenizer = Tokenizer(models.BPE(unk_token="<u>", end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return tokenizer, _bpe(["<u>"], end_of_word_suffix="</w>")


def _bpe(special: list[str], vocab_size: int = 500, **options: Any) -> Any:
    return trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False, **options)

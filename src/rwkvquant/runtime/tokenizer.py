"""Which tokenizer a model has: from its name or file, or from what a packed file carries.

world   the RWKV World vocabulary              tokenizer_world.py
bpe     a tokenizer.json (byte-level BPE)      tokenizer_json.py, tokenizer_bpe.py, tokenizer_words.py, tokenizer_added.py
json    any other tokenizer.json               tokenizer_package.py, tokenizer_limits.py
bytes   ids are the bytes                      tokenizer_bytes.py

tokenizer_file.py reads files, tokenizer_beside.py chooses one of those next to a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rwkvquant.checkpoints import EmbeddedTokenizer, TokenizerFiles
from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_added import AddedTokens, unpack_added
from rwkvquant.runtime.tokenizer_base import StreamDecoder, Tokenizer
from rwkvquant.runtime.tokenizer_beside import choose
from rwkvquant.runtime.tokenizer_bpe import BpeTokenizer, unpack_merges
from rwkvquant.runtime.tokenizer_bytes import BytesTokenizer
from rwkvquant.runtime.tokenizer_file import load_file, parse
from rwkvquant.runtime.tokenizer_package import unpack_package
from rwkvquant.runtime.tokenizer_table import unpack_table
from rwkvquant.runtime.tokenizer_world import WORLD_MODEL_VOCABULARY, WorldTokenizer, world

__all__ = ["StreamDecoder", "Tokenizer", "TokenizerSpec", "from_data", "load_tokenizer"]

TokenizerSpec = str | Path | EmbeddedTokenizer | TokenizerFiles | None
ARRAYS = {"world": ("table",), "bpe": ("table", "merges"), "bpe-added": ("table", "merges"), "json": ("json",), "bytes": ()}


def load_tokenizer(spec: TokenizerSpec, vocab_size: int, samples: Sequence[str] = ()) -> Tokenizer:
    """ "world", "bytes", the path of a tokenizer.json or of a vocabulary like rwkv_vocab_v20230424.txt, or None for the model's default.

    A string is what the user named, and is used. TokenizerFiles are those next to the checkpoint (Checkpoint.tokenizer), and a Path is
    one of its own directory: tokenizer_beside.py chooses. An EmbeddedTokenizer is the text of a tokenizer's file inside the checkpoint.
    Where the `tokenizers` package is installed, a tokenizer.json that our own reader reads is compared with it: on hard texts, and on
    `samples`. If the ids differ, the package is used.
    Raises TokenizerError for a file that is neither, and for a tokenizer with more ids than the model's `vocab_size`.
    """
    if isinstance(spec, EmbeddedTokenizer):
        return _require_fit(parse(spec.text, vocab_size, "the tokenizer inside the checkpoint"), vocab_size)
    if isinstance(spec, Path):
        spec = TokenizerFiles((spec,), own=True)
    if isinstance(spec, TokenizerFiles):
        return choose(spec, vocab_size, samples) or _default(vocab_size, spec)
    if spec is None:
        return _default(vocab_size)
    if spec == "bytes":
        return BytesTokenizer(vocab_size)
    return _require_fit(world(vocab_size) if spec == "world" else load_file(Path(spec), vocab_size, samples), vocab_size)


def from_data(data: TokenizerData, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer that a packed file carries. Raises TokenizerError for damaged or hostile data, or more ids than `vocab_size`."""
    if data.kind not in ARRAYS:
        raise TokenizerError(f"a packed file's tokenizer is {', '.join(ARRAYS)}; got {data.kind!r}")
    if missing := [name for name in ARRAYS[data.kind] if name not in data.arrays]:
        raise TokenizerError(f"a {data.kind} tokenizer has the arrays {', '.join(ARRAYS[data.kind])}; missing: {', '.join(missing)}")
    if data.kind == "bytes":
        size = data.meta.get("size")
        if type(size) is not int or size < 1:
            raise TokenizerError(f"a bytes tokenizer has a size of at least 1; got {size!r}")
        return BytesTokenizer(size if vocab_size is None else vocab_size)
    if data.kind == "world":
        tokenizer: Tokenizer = WorldTokenizer(unpack_table(data.arrays["table"]), vocab_size)
    elif data.kind == "json":
        try:
            tokenizer = unpack_package(data.arrays["json"], vocab_size)
        except TokenizerError as error:
            raise TokenizerError(f"{error} (the packed tokenizer)") from None
    else:
        tokenizer = _bpe(data, vocab_size)
    tokenizer.source = "the packed tokenizer"
    return tokenizer if vocab_size is None else _require_fit(tokenizer, vocab_size)


def _bpe(data: TokenizerData, vocab_size: int | None) -> BpeTokenizer:
    tokens = unpack_table(data.arrays["table"])
    special = data.meta.get("special_tokens", {})
    if not isinstance(special, dict):
        raise TokenizerError(f"special_tokens of a tokenizer is a table {{content: id}}; got {special!r}")
    merges = unpack_merges(data.arrays["merges"], len(tokens))
    added = None
    if data.kind == "bpe-added":
        added = AddedTokens(unpack_added(data.meta.get("added_tokens"), len(tokens)), data.meta.get("normalizer"))
    return BpeTokenizer(tokens, merges, special, bool(data.meta.get("add_prefix_space")), vocab_size, added)


def _default(vocab_size: int, beside: TokenizerFiles | None = None) -> Tokenizer:
    """World or bytes, by the number of ids. Raises TokenizerError for other numbers; `beside` are files that do not fit."""
    if vocab_size == WORLD_MODEL_VOCABULARY:
        return world(vocab_size)
    if vocab_size <= 256:
        return BytesTokenizer(vocab_size)
    unfit = f" ({', '.join(map(str, beside.paths))}: more ids than that)" if beside else ""
    raise TokenizerError(
        f"no tokenizer is known for a vocabulary of {vocab_size}{unfit}; give one with --tokenizer FILE (a tokenizer.json)"
    )


def _require_fit(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    if tokenizer.size > vocab_size:
        raise TokenizerError(f"a tokenizer has at most the model's {vocab_size} ids; {tokenizer.source} has {tokenizer.size}")
    return tokenizer

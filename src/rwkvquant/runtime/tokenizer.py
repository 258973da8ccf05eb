"""Which tokenizer a model has: from its name or file, or from what a packed file carries.

world   the RWKV World vocabulary              tokenizer_world.py
bpe     a tokenizer.json (byte-level BPE)      tokenizer_json.py, tokenizer_bpe.py, tokenizer_words.py, tokenizer_added.py
bytes   ids are the bytes                      tokenizer_bytes.py
"""

from __future__ import annotations

from pathlib import Path

from rwkvquant.checkpoints import EmbeddedTokenizer
from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_added import AddedTokens, unpack_added
from rwkvquant.runtime.tokenizer_base import StreamDecoder, Tokenizer
from rwkvquant.runtime.tokenizer_bpe import BpeTokenizer, unpack_merges
from rwkvquant.runtime.tokenizer_bytes import BytesTokenizer
from rwkvquant.runtime.tokenizer_json import is_conversion_of, parse_tokenizer_json
from rwkvquant.runtime.tokenizer_table import unpack_table
from rwkvquant.runtime.tokenizer_world import WorldTokenizer, load_world, parse_vocabulary
from rwkvquant.stand_in import HEAD_BYTES, stand_in

__all__ = ["StreamDecoder", "Tokenizer", "from_data", "load_tokenizer"]

WORLD_MODEL_VOCABULARY = 65536  # the World vocabulary has 65,530 ids; released models round up


def load_tokenizer(spec: str | Path | EmbeddedTokenizer | None, vocab_size: int) -> Tokenizer:
    """ "world", "bytes", the path of a tokenizer.json or of a vocabulary like rwkv_vocab_v20230424.txt, or None for the model's default.

    A string is what the user named, and is used. A Path is a file next to the checkpoint (Checkpoint.tokenizer): where it
    is the World vocabulary as a tokenizer.json, the package's own World is used, since not all such conversions are right.
    An EmbeddedTokenizer is the text of a tokenizer's file inside the checkpoint.
    Raises TokenizerError for a file that is neither, and for a tokenizer with more ids than the model's `vocab_size`.
    """
    if isinstance(spec, EmbeddedTokenizer):
        return _require_fit(_parse(spec.text, vocab_size, "the tokenizer inside the checkpoint"), vocab_size, "the checkpoint's own")
    if isinstance(spec, Path) and vocab_size == WORLD_MODEL_VOCABULARY and is_conversion_of(spec, load_world()):
        spec = "world"
    if spec is None:
        if vocab_size != WORLD_MODEL_VOCABULARY and vocab_size > 256:
            raise TokenizerError(
                f"no tokenizer is known for a vocabulary of {vocab_size}; give one with --tokenizer FILE (a tokenizer.json)"
            )
        spec = "world" if vocab_size == WORLD_MODEL_VOCABULARY else "bytes"
    if spec == "bytes":
        return BytesTokenizer(vocab_size)
    tokenizer = WorldTokenizer(load_world(), vocab_size) if spec == "world" else _load_file(Path(spec), vocab_size)
    return _require_fit(tokenizer, vocab_size, str(spec))


def from_data(data: TokenizerData, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer that a packed file carries. Raises TokenizerError for damaged or hostile data, or more ids than `vocab_size`."""
    if data.kind == "bytes":
        size = data.meta.get("size")
        if type(size) is not int or size < 1:
            raise TokenizerError(f"a bytes tokenizer has a size of at least 1; got {size!r}")
        return BytesTokenizer(size if vocab_size is None else vocab_size)
    if data.kind not in ("world", "bpe", "bpe-added"):
        raise TokenizerError(f"a packed file's tokenizer is world, bpe, bpe-added or bytes; got {data.kind!r}")
    needed = ["table"] if data.kind == "world" else ["table", "merges"]
    if missing := [name for name in needed if name not in data.arrays]:
        raise TokenizerError(f"a {data.kind} tokenizer has the arrays {', '.join(needed)}; missing: {', '.join(missing)}")
    tokens = unpack_table(data.arrays["table"])
    if data.kind == "world":
        tokenizer: Tokenizer = WorldTokenizer(tokens, vocab_size)
    else:
        special = data.meta.get("special_tokens", {})
        if not isinstance(special, dict):
            raise TokenizerError(f"special_tokens of a tokenizer is a table {{content: id}}; got {special!r}")
        merges = unpack_merges(data.arrays["merges"], len(tokens))
        added = None
        if data.kind == "bpe-added":
            added = AddedTokens(unpack_added(data.meta.get("added_tokens"), len(tokens)), data.meta.get("normalizer"))
        tokenizer = BpeTokenizer(tokens, merges, special, bool(data.meta.get("add_prefix_space")), vocab_size, added)
    return tokenizer if vocab_size is None else _require_fit(tokenizer, vocab_size, "the packed tokenizer")


def _load_file(path: Path, vocab_size: int) -> Tokenizer:
    try:
        raw = path.read_bytes()
        if sentence := stand_in(raw[:HEAD_BYTES]):
            raise TokenizerError(f"{path}: {sentence}")
        text = raw.decode("utf-8")
    except OSError as error:
        raise TokenizerError(f"a tokenizer is world, bytes or a file; {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise TokenizerError(f"line {line}: a tokenizer file is text in UTF-8; this line is not ({path})") from None
    return _parse(text, vocab_size, str(path))


def _parse(text: str, vocab_size: int, source: str) -> Tokenizer:
    try:
        if text.lstrip().startswith("{"):
            return parse_tokenizer_json(text, vocab_size)
        tokens = parse_vocabulary(text)
    except TokenizerError as error:
        raise TokenizerError(f"{error} ({source})") from None
    return WorldTokenizer([tokens.get(i, b"") for i in range(max(tokens) + 1)], vocab_size)


def _require_fit(tokenizer: Tokenizer, vocab_size: int, name: str) -> Tokenizer:
    if tokenizer.size > vocab_size:
        raise TokenizerError(f"a tokenizer has at most the model's {vocab_size} ids; {name} has {tokenizer.size}")
    return tokenizer

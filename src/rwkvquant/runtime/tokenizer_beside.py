"""Which of the tokenizer files next to a checkpoint is the model's.

The tensors of a checkpoint say only how many ids the model has. Models are often padded by some ids, so a tokenizer fits closely if
the model has at most PADDING more. The rules, in this order:

- A tokenizer.json that is the World vocabulary in another form counts as World: not all such conversions are right.
- Files with the same tokenizer are one. Those with more ids than the model are left out.
- If some fit closely, the others are left out. The package's World counts as one that fits closely to WORLD_MODEL_VOCABULARY ids: without
  a close file there, the files next to a .pth are other models'. In the model's own directory they are its own.
- One is left: it is used. Two: the user must say which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rwkvquant.checkpoints import TokenizerFiles
from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_base import Tokenizer
from rwkvquant.runtime.tokenizer_file import load_file
from rwkvquant.runtime.tokenizer_json import is_conversion_of
from rwkvquant.runtime.tokenizer_world import WORLD_MODEL_VOCABULARY, load_world, world

PADDING = 1024


def choose(files: TokenizerFiles, vocab_size: int, samples: Sequence[str] = ()) -> Tokenizer | None:
    """The tokenizer, or None if no file fits and they may be other models'.

    Raises TokenizerError if two fit, if none of the model's own fits, and for a file that is not a tokenizer.
    """
    different = _different([_open(path, vocab_size, samples) for path in files.paths])
    fitting = [tokenizer for tokenizer in different if tokenizer.known <= vocab_size]
    close = [tokenizer for tokenizer in fitting if vocab_size - tokenizer.known < PADDING]
    if not close and not files.own and vocab_size == WORLD_MODEL_VOCABULARY:
        return None
    left = close or fitting
    if len(left) > 1:
        names = " and ".join(tokenizer.source for tokenizer in left)
        raise TokenizerError(f"the model has {vocab_size} ids, and {names} both fit; choose one with --tokenizer FILE")
    if not left and files.own:
        raise TokenizerError(f"a tokenizer has at most the model's {vocab_size} ids; {sizes(different)}")
    return left[0] if left else None


def sizes(tokenizers: Sequence[Tokenizer]) -> str:
    return ", ".join(f"{tokenizer.source} has {tokenizer.known}" for tokenizer in tokenizers)


def _open(path: Path, vocab_size: int, samples: Sequence[str]) -> Tokenizer:
    if vocab_size == WORLD_MODEL_VOCABULARY and is_conversion_of(path, load_world()):
        tokenizer: Tokenizer = world(vocab_size)
        tokenizer.source = f"the World vocabulary of the package, which {path} is another form of"
        return tokenizer
    return load_file(path, vocab_size, samples)


def _different(tokenizers: Sequence[Tokenizer]) -> list[Tokenizer]:
    """The first of those that are stored in the same way."""
    seen: list[tuple[Tokenizer, TokenizerData]] = []
    for tokenizer in tokenizers:
        data = tokenizer.to_data()
        if not any(_equal(data, other) for _, other in seen):
            seen.append((tokenizer, data))
    return [tokenizer for tokenizer, _ in seen]


def _equal(a: TokenizerData, b: TokenizerData) -> bool:
    return (a.kind, a.meta, a.arrays.keys()) == (b.kind, b.meta, b.arrays.keys()) and all(
        np.array_equal(array, b.arrays[name]) for name, array in a.arrays.items()
    )

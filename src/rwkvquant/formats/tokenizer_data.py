"""A tokenizer as the packed file stores it: a kind, a little JSON, and byte arrays. runtime/tokenizer.py makes a tokenizer of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenizerData:
    """`kind` is "world", "bpe", "bpe-added", "json" or "bytes"; `meta` is plain JSON; `arrays` are flat uint8 arrays, with
    little-endian numbers.

    world   table
    bpe     table, merges           meta {"special_tokens": {content: id}, "add_prefix_space": bool}
    bpe-added   as bpe              meta also {"normalizer": "NFC" or None, "added_tokens": [[content, id, normalized, special], ...]}
    json    json                    the text of a tokenizer.json, in UTF-8
    bytes   no array                meta {"size": number of ids}

    table = u32 n, then u32 offsets[n + 1], then one blob: the bytes of id i are blob[offsets[i]:offsets[i + 1]], and none for an
    id that is not used. merges = u32 m, then m triples of u32 (left id, right id, merged id), the strongest merge first.
    """

    kind: str
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

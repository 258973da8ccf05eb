"""Small models with known answers, and a tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rwkvquant.evaluation.windows import Windows, document_windows


class Bytes:
    """Ids are the bytes."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(ids)


class Bigram:
    """The next token depends on the last one only: row t of `table` (V, V) follows token t."""

    def __init__(self, logits: np.ndarray | torch.Tensor) -> None:
        self.table = torch.as_tensor(logits, dtype=torch.float32)
        self.calls: list[tuple[int, ...]] = []  # shapes of the inputs
        self.rows: list[int] = []  # numbers of positions of each call of the head

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(tokens.shape))
        return tokens[:, :, None]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(features))
        return self.table[features[:, 0]]


def uniform(vocab: int = 256) -> Bigram:
    return Bigram(torch.zeros(vocab, vocab))


def random_bigram(seed: int, vocab: int = 256, scale: float = 2.0) -> Bigram:
    return Bigram(scale * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed)))


class Recurrent:
    """Depends on all earlier tokens and on nothing else in the batch, so it shows mistakes with padding and batches."""

    def __init__(self, seed: int = 0, vocab: int = 256, width: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(vocab, width, generator=generator)
        self.head = torch.randn(width, vocab, generator=generator)

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden, out = torch.zeros(len(tokens), self.embedding.shape[1]), []
        for t in range(tokens.shape[1]):
            hidden = torch.tanh(0.8 * hidden.roll(1, -1) + self.embedding[tokens[:, t]])
            out.append(hidden)
        return torch.stack(out, 1)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return (features[:, :, None] * self.head).sum(1)  # no matrix product: its sums depend on the batch


def some_windows(seed: int = 0, lengths: Sequence[int] = (40, 7, 16, 1, 33), context: int = 16) -> Windows:
    """Documents of random ASCII letters of these lengths."""
    random = np.random.default_rng(seed)
    return document_windows(["".join(map(chr, random.integers(97, 123, n))) for n in lengths], Bytes(), context=context)

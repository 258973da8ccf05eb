"""A head that is the embedding: Hugging Face's "tie_word_embeddings", where the file has no tensor for the head.

Nothing in such a file shows that the embedding is the head. A model without its head, or half of a download, has the same tensors. So
config.json next to the weights must say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Architecture, Role
from rwkvquant.checkpoints.config_json import CONFIG
from rwkvquant.checkpoints.tensor_info import TensorInfo
from rwkvquant.checkpoints.translate import TranslatedFile
from rwkvquant.errors import CheckpointError

TIED = "tie_word_embeddings"


class WithHead:
    """`file`, in our names. If its head is tied, `head` is the head's name, and `tensors` has the head with the embedding's values.

    `config` reads the configuration, None if there is none; it is called only if the head is missing. Raises CheckpointError then if
    nothing says that it is tied.
    """

    def __init__(self, file: TranslatedFile, config: Callable[[], Mapping[str, Any] | None]) -> None:
        self.file, self.tensors, self.layout, self.format = file, file.tensors, file.layout, file.format
        self._embedding = file.architecture.embedding.name
        self.head = _missing_head(file)
        if self.head is None:
            return
        if not _says_tied(config() or {}):
            raise CheckpointError(
                f'the checkpoint lacks {self.head}; if the embedding is also the head, a {CONFIG} next to it must have "{TIED}": true'
            )
        info = file.tensors[self._embedding]
        self.tensors = file.tensors | {self.head: TensorInfo(self.head, info.dtype, info.shape)}

    def read(self, name: str) -> NDArray[np.float32]:
        return self.file.read(self._embedding if name == self.head else name)


def _missing_head(file: TranslatedFile) -> str | None:
    """The head, if it is all that a known model lacks outside its blocks, and if an embedding can be a head."""
    own: Architecture = file.architecture
    required = [spec for spec in own.outside if not spec.optional and spec.role is not Role.SETTING]
    missing = [spec.name for spec in required if spec.name not in file.tensors]
    heads = [spec for spec in own.heads if spec.shape == own.embedding.shape]
    return missing[0] if heads and missing == [spec.name for spec in heads] and own.is_marked_in(file.tensors) else None


def _says_tied(config: Mapping[str, Any]) -> bool:
    """Raises CheckpointError for a value that is not true or false."""
    tied = config.get(TIED, False)
    if not isinstance(tied, bool):
        raise CheckpointError(f'"{TIED}" in {CONFIG} must be true or false; got a {type(tied).__name__}')
    return tied

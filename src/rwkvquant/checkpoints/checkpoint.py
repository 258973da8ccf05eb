"""A checkpoint as the rest of the project sees it: architecture, sizes, and tensors by the names of architectures/.

"Logical" matrices are what is quantised. Each is (out, in): LoRA factors that are stored (in, out) are transposed. A tensor that
holds several matrices (RWKV-6's time_maa_w2) appears as "<name>.0", "<name>.1", ...
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import QUANTIZED_ROLES, Role, TensorSpec
from rwkvquant.architectures.image import ImageSettings, image_summary
from rwkvquant.checkpoints.adapter import Adapter
from rwkvquant.checkpoints.config_json import read_config
from rwkvquant.checkpoints.detect import detect
from rwkvquant.checkpoints.gguf_tokenizer import EmbeddedTokenizer
from rwkvquant.checkpoints.image_settings import image_settings
from rwkvquant.checkpoints.settings import WithSettings
from rwkvquant.checkpoints.summary import summary
from rwkvquant.checkpoints.tied_head import WithHead
from rwkvquant.checkpoints.tokenizer_files import TokenizerFiles, tokenizer_files
from rwkvquant.checkpoints.translate import TranslatedFile
from rwkvquant.errors import CheckpointError

Edit = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # of a matrix (out, in), which keeps its shape


@dataclass(frozen=True)
class LogicalMatrix:
    """One matrix as it is quantised: `shape` is (out, in), `source` the tensor that holds it, `layer` None for the head.

    `key` is its name inside its block, or the whole name for the head.
    """

    name: str
    key: str
    spec: TensorSpec
    layer: int | None
    shape: tuple[int, int]
    source: str
    index: int | None = None  # of the slice, where the tensor holds several matrices


class Checkpoint:
    """A complete model, whose names and shapes have been checked. Values are checked when they are read.

    `architecture`, and `arch`, its name      `dims`: all sizes      `tensors`: name -> TensorInfo(name, dtype, shape), in the file's order
    `layout`: which name table of names.py the file uses              `format`: "pth" | "safetensors" | "gguf"
    `tied_head`: the name of the head if the file has none because its embedding is the head, else None. `tensors` has it.
    `adapter`: what is merged when a tensor is read, or None. `sha256` and `files` are those of the checkpoint alone.
    `carried`: like `tensors`, those that the forward does not use, such as a head that is not ours. `read` reads them too.
    `image`: the settings of a model for images, else None.
    """

    def __init__(
        self,
        path: Path,
        file: TranslatedFile,
        files: list[Path],
        tokenizer: EmbeddedTokenizer | None = None,
        meta: Mapping[Any, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """`files`: all files that were read. `tokenizer`: what is inside of them. `meta`: what a .pth has next to its tensors.

        `config`: the settings that are inside of a file; None: they are in config.json next to it.

        Raises CheckpointError unless the tensors are those of a supported architecture.
        """
        self.path, self.files = path, files

        def settings() -> Mapping[str, Any] | None:
            return read_config(path) if config is None else config

        self._file = whole = WithSettings(WithHead(file, settings), settings)
        self.tied_head = whole.head
        self._tokenizer = tokenizer
        self.layout, self.format = file.layout, file.format
        self.architecture, self.dims = detect({name: info.shape for name, info in whole.tensors.items()})
        self.arch = self.architecture.name
        carried = self.architecture.carried(whole.tensors)
        self.tensors = {name: info for name, info in whole.tensors.items() if name not in carried}
        self.carried = {name: info for name, info in whole.tensors.items() if name in carried}
        self.image: ImageSettings | None = None
        if self.architecture.modality == "image":
            self.image = image_settings(meta or {}, self.dims, self.tensors)
        self.adapter: Adapter | None = None
        self._edits: Mapping[str, Edit] = {}

    def adapt(self, adapter: Adapter) -> None:
        """Merge `adapter` into what is read from now on. Raises CheckpointError if it changes a tied head."""
        ends = {self.tied_head, self.architecture.embedding.name} & adapter.changes.keys() if self.tied_head else set()
        for name in sorted(filter(None, ends)):
            raise CheckpointError(f"the adapter {adapter.path}: it changes {name}, but in this checkpoint the head is the embedding")
        self.adapter = adapter

    def edit(self, edits: Mapping[str, Edit]) -> None:
        """Change logical matrices, by name, when they are read from now on. All together must leave what the model computes."""
        self._edits = edits

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor in its stored shape. Raises CheckpointError if it was altered, or holds NaN or infinity."""
        try:
            values = self._file.read(name)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        return values if self.adapter is None else self.adapter.merge(name, values)

    def specs(self) -> Iterator[tuple[str, TensorSpec, int | None]]:
        """(full name, spec, layer or None) of every tensor that exists and is used: embedding, blocks, ln_out, head."""
        return (each for each in self.architecture.used(self.dims.layers) if each[0] in self.tensors)

    def logical_matrices(self) -> Iterator[LogicalMatrix]:
        """Projections, LoRA factors and the head, in the order of `specs`."""
        return iter(self._matrices.values())

    def read_matrix(self, name: str) -> NDArray[np.float32]:
        """A logical matrix by its name, (out, in) and contiguous. Raises the errors of `read`."""
        matrix = self._matrices[name]
        values = self.read(matrix.source)
        if matrix.index is not None:
            values = values[matrix.index]
        if matrix.spec.kernel:
            values = values.reshape(matrix.shape)
        W = np.ascontiguousarray(values.T if matrix.spec.transposed else values)
        return self._edits[name](W) if name in self._edits else W

    @cached_property
    def _matrices(self) -> dict[str, LogicalMatrix]:
        matrices: dict[str, LogicalMatrix] = {}
        for name, spec, layer in self.specs():
            if spec.role not in (*QUANTIZED_ROLES, Role.HEAD):
                continue
            *_, rows, cols = self.tensors[name].shape
            shape = (cols, rows) if spec.transposed else (rows, cols)
            if spec.kernel:
                shape = self.tensors[name].shape[0], math.prod(self.tensors[name].shape[1:])
            if spec.slices:
                parts = enumerate(spec.parts)
                matrices |= {f"{name}.{i}": LogicalMatrix(f"{name}.{i}", key, spec, layer, shape, name, i) for i, key in parts}
            else:
                matrices[name] = LogicalMatrix(name, spec.name, spec, layer, shape, name)
        return matrices

    def made_from(self) -> dict[str, str]:
        """What the values depend on: {"checkpoint": its hash}, and "adapter", the hash of the adapter, if there is one."""
        return {"checkpoint": self.sha256(), **({"adapter": self.adapter.sha256} if self.adapter else {})}

    def sha256(self) -> str:
        """In hexadecimal; computed once.

        For one file: the hash of its bytes. For several: the hash of what sha256sum prints for them, in the order of their names.
        """
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        if len(self.files) == 1:
            return _sha256(self.files[0])
        lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(self.files, key=lambda path: path.name)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def tokenizer(self) -> EmbeddedTokenizer | TokenizerFiles | None:
        """The tokenizer in a GGUF file; or else the tokenizer files in the checkpoint's directory, of which runtime/ chooses one."""
        return self._tokenizer or tokenizer_files(self.path)

    def inputs(self) -> list[Path]:
        """All files that a job with this checkpoint may read, so that none of them is its output: the tokenizer files too."""
        found = self.tokenizer
        return [*self.files, *(found.paths if isinstance(found, TokenizerFiles) else ())]

    def summary(self) -> dict[str, Any]:
        """What `inspect` shows, as plain JSON; no weight is read."""
        kind = {"format": self.format, "layout": self.layout}
        stored = {name: info for name, info in self.tensors.items() if name != self.tied_head and name not in self._file.made}
        result = summary(
            self.path, self.files, kind, self.arch, self.dims, stored | self.carried, self.specs(), self.carried, self.tied_head is not None
        )
        return result | ({"image": image_summary(self.image, self.dims)} if self.image else {})


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

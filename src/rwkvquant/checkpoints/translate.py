"""Recognise the layout of a file by its tensors' names (and by shapes, where two layouts share names), and give the tensors our names.

All later code sees the names and shapes of architectures/. A tensor that the layout's table does not know keeps its name: detect.py
then refuses it, or says which architecture it belongs to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Architecture, Role, architecture
from rwkvquant.architectures.registry import marked, newest_first
from rwkvquant.checkpoints.conversions import AS_IT_IS, Conversion, shape_after
from rwkvquant.checkpoints.names import (
    EMBEDDINGS,
    FAMILIES,
    FIRST_FACTOR,
    FLA_RWKV6_MARK,
    GGUF_LLAMA_MARK,
    GGUF_RWKV6_MARK,
    PREFIXES,
    WEB_RWKV6_MARK,
    NameTable,
    Place,
    name_table,
)
from rwkvquant.checkpoints.tensor_info import TensorFile, TensorInfo
from rwkvquant.errors import CheckpointError


class TranslatedFile:
    """`file` with the names of its architecture. Raises CheckpointError for names of two layouts, and for an impossible shape.

    `layout` is a name of names.py. Where all LoRA factors are square, `file.written_as` decides. `architecture` is the one that the names
    suggest; detect.py decides whether the tensors are really those of a model of it.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        family = _family(file.tensors)
        self._prefix = next((p for p in PREFIXES if family == f"BlinkDL with the prefix {p!r}"), "")
        self._table, self.architecture = _find_table(file.tensors, family, self._prefix, file.written_as)
        self.layout, self.format = self._table.name, file.format
        self._sources: dict[str, tuple[str, Conversion]] = {}
        self._unknown: list[str] = []
        by_name = _by_stored_name(self._table)
        for stored in file.tensors:
            for name, conversion in self._translations(stored, by_name):
                if name in self._sources:
                    raise CheckpointError(f"two tensors of the file mean {name}: {self._sources[name][0]} and {stored}; keep one of them")
                self._sources[name] = stored, conversion
        self.tensors = {name: self._info(name, file.tensors[stored], conversion) for name, (stored, conversion) in self._sources.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        stored, conversion = self._sources[name]
        return np.ascontiguousarray(conversion.read(self._file.read(stored)))

    def explain(self, sentence: str) -> str:
        """`sentence`, and for the first of our tensor names in it: its name in this file, and a name that may be a misspelling of it."""
        match = self._our_name().search(sentence)
        if match is None:
            return sentence
        name, stored = match[0], self._stored_name(match[0])
        near = difflib.get_close_matches(stored, self._unknown, n=1, cutoff=0.8) if name not in self._sources else []
        hints = [f"{stored} in the names of this file"] if stored != name else []
        hints += [f"is {near[0]} a misspelling of it?"] if near and near[0] != stored else []
        return f"{sentence} ({'; '.join(hints)})" if hints else sentence

    def _translations(self, stored: str, by_name: Mapping[str, list[tuple[str, Conversion]]]) -> list[tuple[str, Conversion]]:
        """(our name, conversion) of each of our tensors that `stored` holds."""
        bare = stored.removeprefix(self._prefix)
        block = re.fullmatch(re.escape(self._table.block) + r"([0-9]{1,5})\.(.+)", bare)
        within = by_name.get(block[2] if block else bare)
        outside = {spec.name for spec in self.architecture.outside}
        if within is None or (within[0][0] in outside) == bool(block):
            self._unknown.append(stored)
            return [(bare, AS_IT_IS)]
        return [(self.architecture.full_name(block[1], name) if block else name, conversion) for name, conversion in within]

    def _info(self, name: str, stored: TensorInfo, conversion: Conversion) -> TensorInfo:
        try:
            return TensorInfo(name, stored.dtype, shape_after(conversion, stored.shape))
        except (ValueError, IndexError):
            shape = ", ".join(map(str, stored.shape))
            raise CheckpointError(f"{stored.name}, which is {name} in the layout {self.layout}, cannot have the shape ({shape})") from None

    def _stored_name(self, name: str) -> str:
        block, key = self.architecture.split(name)
        place = self._table.places.get(key, Place(key))
        stored = f"{self._table.block}{block}.{place.name}" if block else place.name
        spec = self.architecture.by_key.get(name)
        return stored if spec is not None and spec.role is Role.HEAD else self._prefix + stored

    def _our_name(self) -> re.Pattern[str]:
        outside = "|".join(re.escape(spec.name) for spec in self.architecture.outside)
        return re.compile(rf"\b(?:{re.escape(self.architecture.block)}\d+\.\w+(?:\.\w+)*|{outside})")


def _family(tensors: Mapping[str, TensorInfo]) -> str | None:
    """The key of names.FAMILIES whose pattern some name matches. Raises CheckpointError if there are two."""
    examples = {family: name for family, pattern in FAMILIES.items() for name in tensors if re.match(pattern, name)}
    if len(examples) > 1:
        (one, first), (other, second) = list(examples.items())[:2]
        raise CheckpointError(f"all names in a checkpoint must be of one layout; {first} is of {one}, and {second} of {other}")
    return next(iter(examples), None)


def _find_table(
    tensors: Mapping[str, TensorInfo], family: str | None, prefix: str, written_as: str | None
) -> tuple[NameTable, Architecture]:
    if family == "fla":
        return _named("fla", architecture("rwkv6" if _some(FLA_RWKV6_MARK, tensors) else "rwkv7"))
    if family == "GGUF":
        newest = "llama" if _some(GGUF_LLAMA_MARK, tensors) else "rwkv7"
        return _named("gguf", architecture("rwkv6" if _some(GGUF_RWKV6_MARK, tensors) else newest))
    if family == "Hugging Face LLaMA":
        return _named("hf", architecture("llama"))
    if family == "OpenGVLab":
        return _named("opengvlab", architecture("vrwkv"))
    if family == "Hugging Face RWKV-6":
        return _named("hf", architecture("rwkv6"))
    shapes = {name.removeprefix(prefix): info.shape for name, info in tensors.items()}
    if _some(WEB_RWKV6_MARK, shapes):
        return _named("web-rwkv", architecture("rwkv6"))
    # web-rwkv puts no prefix before its names.
    square = "blinkdl" if prefix else written_as if written_as in ("blinkdl", "web-rwkv") else None
    return _named(_orientation(shapes) or square or _refuse_square(shapes), marked(shapes) or newest_first()[0])


def _named(name: str, architecture: Architecture) -> tuple[NameTable, Architecture]:
    table = name_table(name, architecture)
    if table is None:
        raise CheckpointError(
            f"{architecture.title} can be read in BlinkDL's layout only; the names or the LoRA factors of this file are those of {name}"
        )
    return table, architecture


def _orientation(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The layout by the first LoRA factor that is not square, or None if some are square and no other decides.

    Without LoRA factors, or without a known width, it is BlinkDL's: there is nothing to transpose.
    """
    width = next((shapes[name][-1] for name in EMBEDDINGS if name in shapes), None)
    factors = [shape for name, shape in shapes.items() if re.fullmatch(FIRST_FACTOR, name)]
    for shape in factors:
        if len(shape) == 2 and shape[0] != shape[1] and width in shape:
            return "blinkdl" if shape[0] == width else "web-rwkv"
    return None if any(shape == (width, width) for shape in factors) else "blinkdl"


def _refuse_square(shapes: Mapping[str, tuple[int, ...]]) -> str:
    name = next(name for name in shapes if re.fullmatch(FIRST_FACTOR, name))
    raise CheckpointError(
        f"BlinkDL's layout and web-rwkv's differ in the shapes of LoRA factors, but here {name} and all others are square; use a .pth"
    )


def _some(pattern: str, names: Mapping[str, object]) -> bool:
    return any(re.match(pattern, name) for name in names)


def _by_stored_name(table: NameTable) -> dict[str, list[tuple[str, Conversion]]]:
    """The layout's name -> all (our name, conversion) that it holds."""
    held: dict[str, list[tuple[str, Conversion]]] = {}
    for places in (table.places, table.also):
        for ours, place in places.items():
            held.setdefault(place.name, []).append((ours, place.conversion))
    return held

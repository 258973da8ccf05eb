"""The plan, made before pass 2: for every tensor its setting, or the precision that it keeps; and the ledger that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Role, TensorSpec
from rwkvquant.checkpoints import Checkpoint, LogicalMatrix
from rwkvquant.codecs import CodecConfig, DenseConfig
from rwkvquant.codecs.dense import MAX_NDIM
from rwkvquant.formats.ledger import Ledger, make_item
from rwkvquant.formats.table import transform_bytes
from rwkvquant.pipeline.transforms import Transforms, for_setting, transforms_of
from rwkvquant.recipes import Recipe, Setting
from rwkvquant.transforms import NONE, Applied

LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the packed file. `setting` None: dense, with `dense_bits`. `rows`: in the layout that is read row by row."""

    name: str
    source: str  # the tensor of the checkpoint that it is in
    spec: TensorSpec
    layer: int | None  # None for what is before or after the blocks, and for ln0
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    setting: Setting | None
    dense_bits: int = 16
    rows: bool = False
    transform: Applied = NONE  # of its input

    @property
    def key(self) -> str:
        """Its name among the weights of its block, or of the whole model."""
        return self.name if self.layer is None else self.spec.name + self.name.removeprefix(self.source)

    @property
    def codec(self) -> CodecConfig:
        return DenseConfig(self.dense_bits) if self.setting is None else self.setting.codec

    @property
    def layout(self) -> str:
        return self.codec.layout(self.shape, self.rows)

    @property
    def stored_bytes(self) -> int:
        return self.codec.stored_bytes(self.shape, self.rows) + transform_bytes(self.transform, self.shape[-1])

    @property
    def method(self) -> str:
        return "dense" if self.setting is None else self.setting.method


def make_plan(
    checkpoint: Checkpoint, recipe: Recipe, chosen: Mapping[str, Setting], transforms: Transforms | None = None
) -> list[PlannedTensor]:
    """Every tensor that the forward uses, in file order, and what is carried along.

    `chosen` for each projection and LoRA factor, by logical name. `transforms`: those of the recipe, if they are known already.
    """
    transforms = transforms_of(checkpoint, recipe) if transforms is None else transforms
    matrices: dict[str, list[LogicalMatrix]] = {}
    for matrix in checkpoint.logical_matrices():
        matrices.setdefault(matrix.source, []).append(matrix)

    plan = []
    for name, spec, layer in checkpoint.specs():
        owner = checkpoint.architecture.owner(spec, layer)
        source_shape = checkpoint.tensors[name].shape
        if name in matrices:
            for matrix in matrices[name]:
                shape_of_slice = source_shape[1:] if spec.slices else source_shape
                setting = _only(recipe.head) if spec.role is Role.HEAD else chosen[matrix.name]
                dense_bits = _dense_bits(checkpoint.read(name)) if setting is None else 0
                transform = for_setting(transforms.get(matrix.name, NONE), setting)
                plan.append(
                    PlannedTensor(matrix.name, name, spec, owner, matrix.shape, shape_of_slice, setting, dense_bits, transform=transform)
                )
        elif spec.role is Role.EMBEDDING:
            shape, setting = spec.forward_shape(checkpoint.dims), _only(recipe.embedding)
            dense_bits = _dense_bits(checkpoint.read(name)) if setting is None else 0
            rows = setting is not None and spec.input is None  # a row for each token; an embedding of patches is a product
            plan.append(PlannedTensor(name, name, spec, owner, shape, source_shape, setting, dense_bits, rows))
        elif spec.role is Role.ELEMENTWISE and (vector := _vector_setting(recipe, checkpoint.dims.width)) is not None:
            plan.append(PlannedTensor(name, name, spec, owner, (1, checkpoint.dims.width), source_shape, vector, rows=True))
        else:
            dense_bits = _dense_bits(checkpoint.read(name), lossless=spec.role is not Role.ELEMENTWISE)
            plan.append(PlannedTensor(name, name, spec, owner, source_shape, source_shape, None, dense_bits))
    for name, info in checkpoint.carried.items():
        shape = info.shape if 1 <= len(info.shape) <= MAX_NDIM else (math.prod(info.shape),)
        carried = TensorSpec(name, info.shape, Role.CARRIED)
        plan.append(PlannedTensor(name, name, carried, None, shape, info.shape or (1,), None, _dense_bits(checkpoint.read(name))))
    return plan


def planned_ledger(plan: list[PlannedTensor], tokenizer_bytes: int) -> Ledger:
    """The ledger of the file that this plan gives, without its header: its size is not known before it is written."""
    items = tuple(make_item(t.name, str(t.spec.role), t.shape, t.stored_bytes, t.method, t.layout) for t in plan)
    return Ledger(items, tokenizer_bytes)


def _vector_setting(recipe: Recipe, width: int) -> Setting | None:
    """None where 16 bits take no more space: in narrow models padding takes what fewer bits save."""
    setting = _only(recipe.vectors)
    if setting is None or setting.stored_bytes((1, width), rows=True) >= DenseConfig().stored_bytes((width,)):
        return None
    return setting


def _only(settings: tuple[Setting, ...]) -> Setting | None:
    """The setting, or None: 16 bits stay."""
    return settings[0] if settings else None


def _dense_bits(values: NDArray[np.float32], lossless: bool = False) -> int:
    """16 where float16 can hold the values (all of their bits, if `lossless`), else 32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    fits = np.array_equal(half.astype(np.float32), values) if lossless else bool(np.isfinite(half).all())
    return 16 if fits else 32

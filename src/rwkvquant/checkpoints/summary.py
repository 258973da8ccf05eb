"""What `rwkvquant inspect` prints about a checkpoint, from its table of tensors alone."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rwkvquant.architectures import QUANTIZED_ROLES, Dims, Role, TensorSpec
from rwkvquant.checkpoints.tensor_info import TensorInfo

_ALWAYS = ("layers", "width", "hidden", "vocab", "heads", "head_size", "ranks")  # sizes that are shown even where they are 0
UsedTensor = tuple[str, TensorSpec, int | None]  # of Checkpoint.specs()


def summary(
    path: Path,
    files: list[Path],
    kind: dict[str, str],
    arch: str,
    dims: Dims,
    tensors: dict[str, TensorInfo],
    used: Iterable[UsedTensor],
    carried: Collection[str],
    tied_head: bool,
) -> dict[str, Any]:
    """Plain JSON. Keys that packed files have too mean the same there. Names and shapes are ours in every layout.

    `kind` is {"format": "pth" | "safetensors" | "gguf", "layout": a name of names.py}.

    `tensors` are those in the file: a head that is the embedding (`tied_head`) is not in it, and is not counted.

    `parameters_by_role` counts weights; the role "unused" is that of layer 0's v0, v1, v2, and "carried" that of names in `carried`.
    `parameters` is the sum.
    """
    roles = {name: str(spec.role) for name, spec, _ in used} | dict.fromkeys(carried, str(Role.CARRIED))
    by_role: Counter[str] = Counter()
    by_dtype: Counter[str] = Counter()
    bits: defaultdict[str, float] = defaultdict(float)
    rows = []
    for name, info in tensors.items():
        role = roles.get(name, "unused")
        by_role[role] += info.parameters
        by_dtype[info.dtype] += info.parameters
        bits[role] += info.bits * info.parameters
        rows.append({"name": name, "role": role, "dtype": info.dtype, "shape": list(info.shape), "bits_per_weight": info.bits})
    file_bytes = sum(part.stat().st_size for part in files)
    return {
        "file": str(path),
        **kind,
        "arch": arch,
        "dims": {name: size for name, size in dataclasses.asdict(dims).items() if size or name in _ALWAYS},
        "dtype": ", ".join(dtype for dtype, _ in by_dtype.most_common()),
        "parameters": by_role.total(),
        "parameters_by_role": dict(by_role.most_common()),
        "parameters_by_dtype": dict(by_dtype.most_common()),
        "tied_head": tied_head,
        "time_state": by_role[str(Role.STATE)] > 0,
        "file_bytes": file_bytes,
        "bits_per_weight": _mean_bits(bits, by_role, QUANTIZED_ROLES),
        "bits_per_weight_projections": _mean_bits(bits, by_role, (Role.PROJECTION,)),
        "bits_per_weight_file": 8 * file_bytes / by_role.total(),
        "tensors": rows,
    }


def _mean_bits(bits: Mapping[str, float], parameters: Counter[str], roles: tuple[Role, ...]) -> float:
    return sum(bits.get(role, 0.0) for role in roles) / sum(parameters[role] for role in roles)

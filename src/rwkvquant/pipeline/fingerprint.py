"""What a job's bytes depend on, as plain JSON. Two runs that agree in it give the same file, on the same machine.

It is made from the recipe, which is complete, so nothing that changes the bytes can be forgotten. Pass 1 depends on less than the whole
job: another budget, or other bits for the head, do not change its losses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rwkvquant.architectures.image import ImageSettings
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.formats.writer import package_version
from rwkvquant.pipeline.transforms import Transforms
from rwkvquant.recipes import Recipe, Setting

SUMS = (
    "checkpoint",
    "adapter",
    "calibration text",
    "calibration images",
    "tokenizer",
    "image settings",
    "candidates",
    "input transforms",
    "plan",
)  # hashes, which tell a reader nothing
ELSEWHERE = (
    "calibration",
    "tokenizer",
    "adapter",
    "candidates",
    "sparse_input",
    "nonnegative_input",
    "for_images",
)  # compared by content, not by path


def of_pass_1(
    source: Mapping[str, str],
    read: str,
    settings: Mapping[str, Sequence[Setting]],
    transforms: Transforms,
    recipe: Recipe,
    kind: str = "text",
) -> dict[str, Any]:
    """`source`: as Checkpoint.made_from. `read`: SHA-256 of what is read for calibration, `kind` "text" or "images".

    `settings`: the candidates of each matrix. `transforms`: of their inputs.
    """
    return {
        **source,
        f"calibration {kind}": read,
        "candidates": _sum({name: [setting.to_json() for setting in each] for name, each in settings.items()}),
        "method": recipe.method,
        "input transforms": _sum({name: repr(applied.key) for name, applied in transforms.items()}),
        **dataclasses.asdict(recipe.quantizer),
        "seed": recipe.seed,
        "forward_dtype": recipe.forward_dtype,
        "device": recipe.device,
        "batch": recipe.calibration.batch,
        **_environment(),
    }


def of_pass_2(
    source: Mapping[str, str],
    read: str | None,
    kept: TokenizerData | ImageSettings,
    chosen: Mapping[str, Setting],
    recipe: Recipe,
) -> dict[str, Any]:
    """`source` and `read` as in pass 1. `kept`: what the file keeps for its runtime. `chosen`: the setting of each matrix."""
    return {
        **source,
        f"calibration {'images' if isinstance(kept, ImageSettings) else 'text'}": read,
        **_runtime(kept),
        "plan": _sum({name: setting.to_json() for name, setting in chosen.items()}),
        "candidates": _sum([setting.to_json() for setting in (*recipe.candidates, *recipe.own_candidates)]),
        **_parts(recipe),
        **_environment(),
    }


def _runtime(kept: TokenizerData | ImageSettings) -> dict[str, str]:
    if isinstance(kept, ImageSettings):
        return {"image settings": _sum(dataclasses.asdict(kept))}
    words = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in kept.arrays.items()}
    return {"tokenizer": _sum([kept.kind, kept.meta, words])}


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed, in words."""
    changed = [name for name in dict.fromkeys([*now, *kept]) if kept.get(name) != now.get(name)]
    return [name if name in SUMS else f"{name} ({kept.get(name)}, now {now.get(name)})" for name in changed]


def _parts(recipe: Recipe) -> dict[str, Any]:
    """Every field of the recipe, under a name that a user knows."""
    parts: dict[str, Any] = {
        f"calibration {name}": value for name, value in dataclasses.asdict(recipe.calibration).items() if name != "path"
    }
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in ELSEWHERE:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts |= dataclasses.asdict(value)
        else:
            parts[field.name] = ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else value
    return parts


def _environment() -> dict[str, Any]:
    """Another build, number of threads or kind of CPU adds sums up in another order."""
    return {
        "rwkvquant": package_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

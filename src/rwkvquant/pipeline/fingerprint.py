"""What a job's bytes depend on, as plain JSON. Two runs that agree in it give the same file, on the same machine.

A pass 1 depends on less than the whole job: another budget, or other bits for the head, leave its losses as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rwkvquant.config import QuantizeConfig
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.formats.writer import package_version
from rwkvquant.recipes.setting import Setting

SHAPING_OPTIONS = ("method", "style", "clip_search", "act_order", "damping", "seed", "device")
SUMS = ("checkpoint", "calibration text", "tokenizer", "candidates", "plan")  # hashes: to show them would say nothing


def of_pass_1(source: str, text: str, settings: Mapping[str, list[Setting]], config: QuantizeConfig) -> dict[str, Any]:
    """`source` and `text`: SHA-256 of the checkpoint and of the calibration tokens."""
    return {
        "checkpoint": source,
        "calibration text": text,
        "candidates": _sum({name: [setting.to_json() for setting in found] for name, found in settings.items()}),
        **{name: getattr(config, name) for name in SHAPING_OPTIONS},
        "batch": config.calibration.batch,
        **_environment(),
    }


def of_pass_2(
    source: str, text: str | None, tokenizer: TokenizerData, chosen: Mapping[str, Setting], config: QuantizeConfig
) -> dict[str, Any]:
    options = config.to_dict()
    options |= {f"calibration {name}": value for name, value in options.pop("calibration").items()}
    del options["calibration path"]  # what they name counts, wherever it lies
    del options["tokenizer"]
    words = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tokenizer.arrays.items()}
    return {
        "checkpoint": source,
        "calibration text": text,
        "tokenizer": _sum([tokenizer.kind, tokenizer.meta, words]),
        "plan": _sum({name: setting.to_json() for name, setting in chosen.items()}),
        **json.loads(json.dumps(options)),
        **_environment(),
    }


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed, in words."""
    changed = [name for name in dict.fromkeys([*now, *kept]) if kept.get(name) != now.get(name)]
    return [name if name in SUMS else f"{name} ({kept.get(name)}, now {now.get(name)})" for name in changed]


def _environment() -> dict[str, Any]:
    """Sums are added up in another order by another build, number of threads, or kind of CPU."""
    return {
        "rwkvquant": package_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

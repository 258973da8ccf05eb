"""plan.json: what pass 1 found, and what was chosen from it. Another budget on the same work directory reads it and skips pass 1.

{"format": "rwkvquant plan", "version": 1, "fingerprint": ..., "tensors": {name: {weights, proxies, incoherence, candidates, chosen}}}

The fingerprint covers what the losses depend on: checkpoint, calibration tokens, candidates, and the options that shape them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwkvquant.config import QuantizeConfig
from rwkvquant.errors import ConfigError
from rwkvquant.pipeline.measure import Candidate, Measured
from rwkvquant.pipeline.settings import Setting

NAME = "plan.json"
FORMAT, VERSION = "rwkvquant plan", 1
SHAPING_OPTIONS = ("method", "style", "clip_search", "act_order", "damping", "seed")


def fingerprint(source_sha256: str, calibration_sha256: str, settings: Mapping[str, list[Setting]], config: QuantizeConfig) -> str:
    """16 hexadecimal digits."""
    parts = {
        "version": VERSION,
        "source": source_sha256,
        "calibration": calibration_sha256,
        "settings": {name: [setting.to_json() for setting in found] for name, found in settings.items()},
        "options": {name: getattr(config, name) for name in SHAPING_OPTIONS},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def save_plan(directory: Path, mark: str, measured: Mapping[str, Measured], chosen: Mapping[str, Setting]) -> None:
    """Written beside and renamed, so that there is a whole file or none."""
    tensors = {}
    for name, found in measured.items():
        entry = dataclasses.asdict(found) | {"chosen": chosen[name].to_json()}
        del entry["name"]
        entry["candidates"] = [
            {**c.setting.to_json(), "stored_bytes": c.stored_bytes, "loss": c.loss, "relative_error": c.relative_error}
            for c in found.candidates
        ]
        tensors[name] = entry
    text = json.dumps({"format": FORMAT, "version": VERSION, "fingerprint": mark, "tensors": tensors}, indent=1)
    beside = directory / f"{NAME}.new"
    beside.write_text(text + "\n")
    os.replace(beside, directory / NAME)


def load_plan(directory: Path, mark: str) -> dict[str, Measured] | None:
    """None where there is no plan, or one made from something else or by another version."""
    try:
        found = json.loads((directory / NAME).read_text())
        if (found["format"], found["version"], found["fingerprint"]) != (FORMAT, VERSION, mark):
            return None
        return {name: _measured(name, entry) for name, entry in found["tensors"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return None


def _measured(name: str, entry: dict[str, Any]) -> Measured:
    numbers = ("stored_bytes", "loss", "relative_error")
    candidates = tuple(
        Candidate(
            Setting.from_json({key: value for key, value in found.items() if key not in numbers}),
            int(found["stored_bytes"]),
            float(found["loss"]),
            float(found["relative_error"]),
        )
        for found in entry["candidates"]
    )
    return Measured(name, int(entry["weights"]), entry["proxies"], float(entry["incoherence"]), candidates)

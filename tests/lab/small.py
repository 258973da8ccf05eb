"""A specification of two requests, and its cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 12
SPEC = """
title: Rounding | at two widths
models: {small: model.pth}
text: some.txt
context: 128
bits: [4.5, 6.5]
calibration: {path: some.txt, rows: 2, length: 64}
reference: rtn
keep_files: true
requests:
  rtn: {method: rtn}
  gptq: {method: gptq, bits: 4.5}
"""


def cells(work: Path) -> dict[str, dict[str, Any]]:
    return {cell["label"]: cell for path in sorted(work.glob("cells/*.json")) for cell in [json.loads(path.read_text())]}


def lasting(cell: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on time, load and work directory."""
    times = ("seconds", "processor_seconds", "skipped_pass_1")
    kept = {name: value for name, value in cell["results"].items() if name not in times}
    return {**cell, "conditions": {**cell["conditions"], "load": None}, "results": kept}

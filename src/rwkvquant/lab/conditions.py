"""What a number depends on besides the question: machine, versions, code. Every cell keeps them."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

import rwkvquant
from rwkvquant.formats.writer import package_version
from rwkvquant.lab.kinds import digest


def conditions() -> dict[str, Any]:
    """Plain JSON. `code` is a hash of all files of this package, so another state of the source is seen."""
    import torch

    return {
        "rwkvquant": package_version(),
        "code": code(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


@functools.cache
def code() -> str:
    """16 hexadecimal digits: SHA-256 of the package's Python files and native module, with their names."""
    root = Path(rwkvquant.__file__).parent
    files = sorted(path for pattern in ("*.py", "_native*") for path in root.rglob(pattern) if path.is_file())
    lines = "".join(f"{digest(path)}  {path.relative_to(root).as_posix()}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']}, family {fields.get('cpu family')} model {fields.get('model')}"

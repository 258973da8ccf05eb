"""What a number depends on besides the question: machine, versions, code. Every cell keeps them."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np

from rwkvquant.formats.writer import package_version
from rwkvquant.pipeline.environment import code
from rwkvquant.system import cpu_name


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

"""What the bytes of a result depend on besides the task: a worker of a cluster must have the same of all of it.

The order of sums depends on the kind of CPU: torch, MKL and oneDNN choose their code by it, and the size of their blocks by its caches. So
results of two kinds of CPU differ in their last bits, and then some codes differ. The native module gives the same bits on every CPU.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path

import numpy as np
import torch

from rwkvquant.formats.writer import package_version
from rwkvquant.kernels.dispatch import native_module
from rwkvquant.pipeline.executor import same_arithmetic
from rwkvquant.plugins import load_plugins, plugins
from rwkvquant.system import cpu_name

TRIED = 300  # width of the products that are compared


def environment(threads: int) -> dict[str, str]:
    """By name. `threads`: of the process whose results are wanted. The call loads the plugins."""
    load_plugins()
    return {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "NumPy": np.__version__,
        "rwkvquant": package_version(),
        "the code of rwkvquant": code(),
        "plugins": ", ".join(plugins()) or "none",
        "kernels": "NumPy" if native_module() is None else "native",
        "CPU": cpu_name(),
        "the instructions that torch uses": torch.backends.cpu.get_cpu_capability(),
        "the sums of trial products": trial(threads),
    }


def differences(theirs: dict[str, str], ours: dict[str, str]) -> list[str]:
    """In words: "torch 2.12.0 (here 2.13.0)"."""
    return [f"{name} {theirs.get(name)} (here {value})" for name, value in ours.items() if theirs.get(name) != value]


@functools.cache
def code() -> str:
    """16 hexadecimal digits: SHA-256 of the package's Python files and native module, with their names."""
    root = Path(__file__).parent.parent
    files = sorted(path for pattern in ("*.py", "_native*") for path in root.rglob(pattern) if path.is_file())
    lines = "".join(f"{_sha256(path)}  {path.relative_to(root).as_posix()}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def trial(threads: int) -> str:
    """16 hexadecimal digits: a hash of the bits of some products, a factor and some functions, in both precisions that jobs use.

    It notices what names do not say: an environment variable that changes the library, or a CPU that hides some instructions.
    """
    draws, found = torch.Generator().manual_seed(0), hashlib.sha256()
    a, b = torch.randn(TRIED, TRIED + 1, generator=draws), torch.randn(TRIED + 1, TRIED, generator=draws)
    for precision in ("highest", "medium"):
        with same_arithmetic(threads, precision):
            H = a @ a.T + TRIED * torch.eye(TRIED)
            for part in (a @ b, a.double() @ b.double(), H, torch.linalg.cholesky(H), torch.linalg.eigh(H)[0], a.exp(), a.tanh(), a.sum(1)):
                found.update(part.numpy().tobytes())
    return found.hexdigest()[:16]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

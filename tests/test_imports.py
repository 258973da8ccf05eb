"""The engine must start without torch; and this check can fail."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENGINE = [
    "rwkvquant",
    "rwkvquant.checkpoints",
    "rwkvquant.cli.main",
    "rwkvquant.codecs.native",
    "rwkvquant.exporting.card",
    "rwkvquant.exporting.layouts",
    "rwkvquant.formats.container",
    "rwkvquant.kernels.dispatch",
    "rwkvquant.kernels.rwkv6",
    "rwkvquant.kernels.rwkv7",
    "rwkvquant.results",
    "rwkvquant.runtime.inspection",
    "rwkvquant.runtime.session",
    "rwkvquant.transforms",
]


def imports_torch(module: str) -> bool:
    script = f"import sys, {module}; sys.exit(17 if 'torch' in sys.modules else 0)"
    code = subprocess.run([sys.executable, "-c", script]).returncode
    assert code in (0, 17), f"importing {module} failed"
    return code == 17


@pytest.mark.parametrize("module", ENGINE)
def test_the_engine_never_imports_torch(module: str) -> None:
    assert not imports_torch(module)


def test_the_check_can_fail() -> None:
    assert imports_torch("rwkvquant.pipeline.quantize")

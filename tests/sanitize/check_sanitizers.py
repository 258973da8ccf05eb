"""The sanitizers really work: the module under test is built with them, and a read past the end of an array ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rwkvquant import _native

OVERRUN = """
import numpy as np
from rwkvquant import _native
lie = np.lib.stride_tricks.as_strided(np.zeros(1920, np.uint8), shape=(2048,))
_native.read_memory(lie, 0)
"""


def test_the_module_is_the_sanitized_one() -> None:
    module = Path(_native.__file__)
    assert module.is_relative_to(os.environ["SANITIZED_SITE"])
    assert b"__asan_report_load" in module.read_bytes() and b"__ubsan_handle" in module.read_bytes()


def test_a_read_past_the_end_of_an_array_ends_the_process() -> None:
    """NumPy can describe an array as longer than it is; nothing else here could make the module read too far."""
    result = subprocess.run([sys.executable, "-c", OVERRUN], capture_output=True, text=True)
    assert result.returncode != 0 and "heap-buffer-overflow" in result.stderr

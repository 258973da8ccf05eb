"""Memory that is free goes back to the system, holes in the heap too."""

from __future__ import annotations

import subprocess
import sys

HOLES = """
import re
from pathlib import Path
from rwkvquant.pipeline.allocation import give_back
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024
blocks = [bytearray(b"x" * 65536) for _ in range(1600)]  # 100 MB, too small each for pages of their own
full = anonymous()
blocks = blocks[::8]
holes = anonymous()
give_back()
print(full, holes, anonymous())
"""


def test_holes_go_back() -> None:
    out = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True).stdout
    full, holes, after = map(int, out.split())
    assert holes > full - 20, "no holes, no test"
    assert after < full - 70

"""Free memory goes back to the system, also from gaps in the middle of the heap."""

from __future__ import annotations

import subprocess
import sys

GAPS = """
import re
from pathlib import Path
from rwkvquant.pipeline.allocation import give_back
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024
blocks = [bytearray(b"x" * 65536) for _ in range(1600)]  # 100 MB, each too small to get its own pages
full = anonymous()
blocks = blocks[::8]
gaps = anonymous()
give_back()
print(full, gaps, anonymous())
"""


def test_gaps_go_back() -> None:
    out = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True).stdout
    full, gaps, after = map(int, out.split())
    assert gaps > full - 20, "no gaps, no test"
    assert after < full - 70

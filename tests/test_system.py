"""Free memory and huge pages are what the files of Linux say, and nothing is invented where they are missing."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.system import free_memory, huge_page_size, resident, why_no_huge_pages

HUGE = "sys/kernel/mm/transparent_hugepage"
MEMINFO = "MemTotal:  24684084 kB\nMemAvailable:   2000 kB\nBuffers: 1 kB"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


def test_free_memory_is_what_is_available(tmp_path: Path) -> None:
    assert free_memory(write(tmp_path, {"proc/meminfo": MEMINFO})) == 2000 << 10
    assert free_memory(tmp_path / "elsewhere") is None


def test_a_control_group_of_version_2_limits_free_memory_and_its_cached_files_count_as_free(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a/b"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/a/b",
        f"{group}/memory.max": "1000000",
        f"{group}/memory.current": "900000",
        f"{group}/memory.stat": "anon 500000\nfile 400000\ninactive_anon 7\ninactive_file 300000\nactive_file 50000\nslab 3",
    }
    assert free_memory(write(tmp_path, files)) == 100_000 + 350_000
    files = {f"{group}/memory.max": "max", "sys/fs/cgroup/a/memory.max": "700", "sys/fs/cgroup/a/memory.current": "900"}
    assert free_memory(write(tmp_path, files)) == 0  # a group above it is full


def test_a_control_group_of_version_1_limits_free_memory(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/x"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/x\n0::/",
        f"{group}/memory.limit_in_bytes": "800000",
        f"{group}/memory.usage_in_bytes": "700000",
        f"{group}/memory.stat": "inactive_file 1\ntotal_inactive_file 20000\ntotal_active_file 3000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000000",
    }
    assert free_memory(write(tmp_path, files)) == 123_000


@linux
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({f"{HUGE}/enabled": "always [madvise] never"}, None),
        ({f"{HUGE}/enabled": "[always] madvise never"}, None),
        ({f"{HUGE}/enabled": "always madvise [never]"}, "transparent_hugepage/enabled says never"),
        ({f"{HUGE}/enabled": "[always] madvise never", f"{HUGE}/hugepages-2048kB/enabled": "always inherit madvise [never]"}, "says never"),
        ({f"{HUGE}/enabled": "always madvise [never]", f"{HUGE}/hugepages-2048kB/enabled": "always inherit [madvise] never"}, None),
        ({f"{HUGE}/enabled": "[always] madvise never", f"{HUGE}/hugepages-2048kB/enabled": "always [inherit] madvise never"}, None),
        ({f"{HUGE}/enabled": "always madvise [never]", f"{HUGE}/hugepages-2048kB/enabled": "always [inherit] madvise never"}, "says never"),
        ({f"{HUGE}/enabled": "[always] madvise never", f"{HUGE}/hpage_pmd_size": "536870912"}, "512 MiB"),
        ({f"{HUGE}/enabled": "[always] madvise never", "proc/self/status": "Name: x\nTHP_enabled:\t0"}, "switched off for this process"),
        ({}, "this kernel has none"),
    ],
)
def test_huge_pages_can_be_had_unless_linux_says_no(tmp_path: Path, files: dict[str, str], reason: str | None) -> None:
    why = why_no_huge_pages(write(tmp_path, files))
    assert why is None if reason is None else reason in str(why)


def test_other_systems_have_no_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert why_no_huge_pages() == "only Linux has them"


@linux
def test_the_resident_part_of_a_mapping_is_what_was_touched() -> None:
    page = huge_page_size()
    memory = mmap.mmap(-1, 3 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    array[: page // 2] = 1
    found = resident(array.ctypes.data, len(array))
    assert found is not None and found.huge == 0
    assert page // 2 <= found.bytes <= page // 2 + (64 << 10)


def test_a_system_without_smaps_says_nothing(tmp_path: Path) -> None:
    assert resident(4096, 4096, tmp_path) is None
    smaps = "1000-3000 r--p 0 00:00 0\nRss: 8 kB\nAnonHugePages: 4 kB\nFilePmdMapped: 2 kB\n5000-6000 r--p 0 00:00 0\nRss: 4 kB"
    found = resident(0x2000, 0x3000, write(tmp_path, {"proc/self/smaps": smaps}))
    assert found is not None and (found.bytes, found.huge) == (8 << 10, 6 << 10)

"""What Linux says about this process: its CPU, its control groups, the memory that it may still take, and huge pages.

`root` is the folder with proc and sys; tests give another one. On other systems these files are missing, and nothing is known.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
_HUGE = "sys/kernel/mm/transparent_hugepage"
MAX_HUGE_PAGE = 32 << 20  # on ARM with pages of 64 KiB a huge page has 512 MiB: more than a small model


def text(path: Path) -> str:
    """The content of a small file, without space around it; "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def cpu_name(root: Path = ROOT) -> str:
    """Its name, family and model."""
    lines = text(root / "proc/cpuinfo").splitlines()
    fields: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        fields.setdefault(name.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']}, family {fields.get('cpu family')} model {fields.get('model')}"


def control_groups(controller: str, root: Path = ROOT) -> Iterator[tuple[int, Path]]:
    """(1 or 2, folder) of this process's control groups for "cpu" or "memory", and of the groups above them. The number is the version."""
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            yield from ((2, folder) for folder in _upwards(root / "sys/fs/cgroup", path))
        elif controller in controllers.split(","):
            yield from ((1, folder) for folder in _upwards(root / "sys/fs/cgroup" / controller, path))


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process may still take without swapping; None where the system does not say.

    It is the least of MemAvailable and of what the control groups leave. Cached files do not count as used: the system gives them up.
    """
    available = re.search(r"^MemAvailable:\s*(\d+) kB", text(root / "proc/meminfo"), re.MULTILINE)
    left = [1024 * int(available[1])] if available else []
    for version, folder in control_groups("memory", root):
        limit, used, prefix = (
            ("memory.max", "memory.current", "") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        )
        most, taken = text(folder / limit), text(folder / used)
        if most.isdigit() and taken.isdigit():
            cached = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", text(folder / "memory.stat"), re.MULTILINE)
            left.append(max(0, int(most) - int(taken) + sum(map(int, cached))))
    return min(left, default=None)


def huge_page_size(root: Path = ROOT) -> int:
    """Bytes of a huge page: 2 MiB on x86."""
    size = text(root / _HUGE / "hpage_pmd_size")
    return int(size) if size.isdigit() else 2 << 20


def why_no_huge_pages(root: Path = ROOT) -> str | None:
    """Why a process cannot ask for huge pages, as the end of a sentence; None if it can."""
    if not sys.platform.startswith("linux"):
        return "only Linux has them"
    size = huge_page_size(root)
    choice = _chosen(text(root / _HUGE / f"hugepages-{size >> 10}kB/enabled"))
    file = f"/{_HUGE}/enabled"
    if choice in ("", "inherit"):
        choice = _chosen(text(root / _HUGE / "enabled"))
    else:
        file = f"/{_HUGE}/hugepages-{size >> 10}kB/enabled"
    if not choice:
        return f"this kernel has none (there is no {file})"
    if choice == "never":
        return f"{file} says never"
    if size > MAX_HUGE_PAGE:
        return f"they have {size >> 20} MiB here, which is too much"
    if re.search(r"^THP_enabled:\s*0$", text(root / "proc/self/status"), re.MULTILINE):
        return "they are switched off for this process"
    return None


@dataclass(frozen=True)
class Resident:
    """Of a range of addresses: bytes in memory, and those of them in huge pages."""

    bytes: int
    huge: int


def resident(address: int, length: int, root: Path = ROOT) -> Resident | None:
    """From /proc/self/smaps; None where the system does not say.

    A mapping that is only partly in the range counts whole, up to `length`.
    """
    total, huge, inside, known = 0, 0, False, False
    for line in text(root / "proc/self/smaps").splitlines():
        if area := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(area[1], 16) < address + length and address < int(area[2], 16)
        elif inside and (field := re.match(r"(Rss|AnonHugePages|FilePmdMapped|ShmemPmdMapped):\s*(\d+) kB", line)):
            known = True
            if field[1] == "Rss":
                total += 1024 * int(field[2])
            else:
                huge += 1024 * int(field[2])
    return Resident(min(total, length), min(huge, length)) if known else None


def _chosen(choices: str) -> str:
    """ "always [madvise] never" -> "madvise"."""
    match = re.search(r"\[(\w+)\]", choices)
    return match[1] if match else ""


def _upwards(top: Path, path: str) -> list[Path]:
    """The group's folder and those above it, up to `top`: in a container the group may be mounted as the top."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return [top.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]

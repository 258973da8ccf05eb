"""How many threads to use: one for each physical core that this process may run on, within the quota of its control group.

Decoding is limited by loads from memory. Two threads of one core share its loads, so the second one gains nothing and costs a barrier.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from rwkvquant.errors import ConfigError
from rwkvquant.system import control_groups, text

MAX_THREADS = 1024


def choose_threads(asked: int | None = None) -> int:
    """`asked`, or the default if it is None. Raises ConfigError below 1 or above 1024."""
    if asked is None:
        return default_threads()
    if not 1 <= asked <= MAX_THREADS:
        raise ConfigError(f"threads must be from 1 to {MAX_THREADS}; got {asked}")
    return asked


def default_threads(root: Path = Path("/")) -> int:
    """At least 1. `root` is the folder with sys and proc; tests give another one."""
    cores = physical_cores(allowed_cpus(), root)
    quota = cgroup_quota(root)
    return max(1, min(cores, MAX_THREADS if quota is None else math.floor(quota)))


def allowed_cpus() -> set[int]:
    """The CPUs that this process may run on: by affinity where the system has it, otherwise all."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def physical_cores(cpus: set[int], root: Path = Path("/")) -> int:
    """How many cores these CPUs belong to; as many as CPUs where the system does not say."""
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        core, package = text(topology / "core_id"), text(topology / "physical_package_id")
        cores.add((package, core) if core else cpu)
    return len(cores)


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """How many CPUs' time the control group may use: the least of its own limit and its parents' limits; None without a limit."""
    quotas = [
        _quotient(*[*text(folder / "cpu.max").split(), "", ""][:2])
        if version == 2
        else _quotient(text(folder / "cpu.cfs_quota_us"), text(folder / "cpu.cfs_period_us"))
        for version, folder in control_groups("cpu", root)
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quotient(quota: str, period: str) -> float | None:
    """ "200000", "100000" -> 2.0; None for "max", "-1" and a missing number."""
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)

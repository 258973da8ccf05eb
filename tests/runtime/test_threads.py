"""The default number of threads is what this process may really use, and a number that was asked for is taken or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.threads import allowed_cpus, cgroup_quota, choose_threads, default_threads, physical_cores


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text + "\n")


def cores(root: Path, layout: dict[int, tuple[int, int]]) -> None:
    """{cpu: (package, core)}"""
    for cpu, (package, core) in layout.items():
        write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/core_id", str(core))
        write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", str(package))


def test_two_threads_of_a_core_count_once_and_packages_number_their_own_cores(tmp_path: Path) -> None:
    cores(tmp_path, {0: (0, 0), 1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 0)})
    assert physical_cores({0, 1, 2, 3, 4}, tmp_path) == 3
    assert physical_cores({0, 1}, tmp_path) == 1
    assert physical_cores({1, 3}, tmp_path) == 2
    assert physical_cores({0, 1, 7, 8}, tmp_path / "elsewhere") == 4  # a system that does not say


def test_the_quota_is_the_least_of_the_groups_above(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) is None
    write(tmp_path, "proc/self/cgroup", "0::/user/job")
    write(tmp_path, "sys/fs/cgroup/user/job/cpu.max", "max 100000")
    assert cgroup_quota(tmp_path) is None
    write(tmp_path, "sys/fs/cgroup/user/cpu.max", "350000 100000")
    assert cgroup_quota(tmp_path) == 3.5
    write(tmp_path, "sys/fs/cgroup/user/job/cpu.max", "150000 100000")
    assert cgroup_quota(tmp_path) == 1.5


def test_the_first_version_of_control_groups_has_quotas_too(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/job")
    write(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1")
    write(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000")
    assert cgroup_quota(tmp_path) is None
    write(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "250000")
    assert cgroup_quota(tmp_path) == 2.5


def test_the_default_keeps_to_cores_quota_and_at_least_one(tmp_path: Path) -> None:
    assert 1 <= default_threads() <= len(allowed_cpus())
    write(tmp_path, "proc/self/cgroup", "0::/")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "30000 100000")
    assert default_threads(tmp_path) == 1


def test_affinity_counts() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs sched_setaffinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_number_that_cannot_be_is_refused() -> None:
    assert choose_threads(3) == 3
    for bad in (0, -1, 1025):
        with pytest.raises(ConfigError, match=f"1 to 1024; got {bad}"):
            choose_threads(bad)

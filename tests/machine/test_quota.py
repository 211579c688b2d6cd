"""Granted threads from control groups of both versions, as files in a temporary folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmwright.machine import quota
from lmwright.machine.quota import cpu_quota, granted_threads, threads_of_torch

V2 = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "31 1 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
SETS = "32 1 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"


def system(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder with what the kernel would show in it."""
    for name, text in {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": mounts,
        **files,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("text", "found"), [("150000 100000\n", 1.5), ("max 100000\n", None)])
def test_version_2(tmp_path: Path, text: str, found: float | None) -> None:
    files = {"sys/fs/cgroup/jobs/one/cpu.max": text}
    assert cpu_quota(system(tmp_path, "0::/jobs/one\n", V2, files)) == found


@pytest.mark.parametrize(("text", "found"), [("300000", 3.0), ("-1", None), ("0", None)])
def test_version_1(tmp_path: Path, text: str, found: float | None) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/jobs"
    files = {f"{folder}/cpu.cfs_quota_us": text, f"{folder}/cpu.cfs_period_us": "100000\n"}
    # The cpuset controller has "cpu" in its name and is another one.
    groups = "4:cpuset:/other\n3:cpu,cpuacct:/jobs\n0::/\n"
    assert cpu_quota(system(tmp_path, groups, SETS + V1, files)) == found


def test_the_least_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/cpu.max": "200000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "50000 10000",
        "sys/fs/cgroup/c/cpu.max": "1000 100000",
    }
    assert cpu_quota(system(tmp_path, "0::/a/b\n", V2, files)) == 2.0


def test_a_mount_of_a_part_of_the_tree(tmp_path: Path) -> None:
    """As in a container of version 1: the group's path is the host's, the mount begins at it."""
    mounts = "31 1 0:27 /docker/1f /sys/fs/cgroup/c\\040pu ro - cgroup cgroup rw,cpu\n"
    files = {
        "sys/fs/cgroup/c pu/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/c pu/cpu.cfs_period_us": "100000",
    }
    assert cpu_quota(system(tmp_path, "3:cpu:/docker/1f\n", mounts, files)) == 0.5


@pytest.mark.parametrize("text", ["", "garbage", "100 0", "-5 100000"])
def test_what_cannot_be_read_sets_no_limit(tmp_path: Path, text: str) -> None:
    files = {"sys/fs/cgroup/cpu.max": text}
    assert cpu_quota(system(tmp_path, "0::/\n", V2, files)) is None
    assert cpu_quota(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("text", "threads"), [("10000 100000", 1), ("290000 100000", 2), ("900000 100000", 4)]
)
def test_threads_are_the_quota_rounded_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, threads: int
) -> None:
    monkeypatch.setattr(quota, "usable_cores", lambda: 4)
    root = system(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": text})
    assert granted_threads(root) == threads


def test_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= granted_threads() <= len(os.sched_getaffinity(0))
    for text, threads in (("3", 3), ("5,2", 5), ("", granted_threads()), ("x", granted_threads())):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert threads_of_torch() == threads

"""Threads that this process is granted: the CPU quota of its control groups and its affinity.

A container sees all cores of its host. With more threads than the quota grants, each period's
share is used up early, and all threads stand still until the next one begins.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def granted_threads(root: Path = ROOT) -> int:
    """The number of threads to compute with: the cores of the affinity, at most the quota's.

    A quota is rounded down, as a parallel product waits for its slowest thread; at least 1.
    ``root`` is the folder in which ``proc`` and ``sys`` lie.
    """
    cores, quota = usable_cores(), cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def usable_cores() -> int:
    """The cores that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of_torch() -> int:
    """The threads that torch is to start with: ``OMP_NUM_THREADS``, else those that are granted."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else granted_threads()


def cpu_quota(root: Path = ROOT) -> float | None:
    """The quota of CPU time in cores, the least of all groups above; None where there is none.

    Read from ``cpu.max`` (cgroup v2) and ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us`` (v1);
    see the kernel's admin-guide/cgroup-v2 and scheduler/sched-bwc. What cannot be read sets no
    limit.
    """
    found = [
        quota
        for folder in cpu_groups(root)
        if (quota := quota_v2(folder) or quota_v1(folder)) is not None
    ]
    return min(found, default=None)


def cpu_groups(root: Path) -> Iterator[Path]:
    """The folders of this process's CPU control groups, each with all that lie above it."""
    places = dict(group_paths(root))
    for line in lines(root / "proc/self/mountinfo"):
        front, _, back = line.partition(" - ")
        fields, kind = front.split(), (back.split() or [""])
        if len(fields) < 5 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup" and "cpu" not in kind[-1].split(","):
            continue
        path = places.get("" if kind[0] == "cgroup2" else "cpu")
        if path is None:
            continue
        top = root / unescaped(fields[4]).lstrip("/")
        # The mount may show a part of the tree only: the path counts from that part on.
        above = unescaped(fields[3]).rstrip("/")
        inside = path[len(above) :] if path == above or path.startswith(above + "/") else ""
        folder = top / inside.lstrip("/")
        yield folder
        while folder != top:
            folder = folder.parent
            yield folder


def group_paths(root: Path) -> Iterator[tuple[str, str]]:
    """(controller, path) of the groups that this process is in; the controller is '' for v2."""
    for line in lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            if controller in ("", "cpu"):
                yield controller, path


def quota_v2(folder: Path) -> float | None:
    """Cores by ``cpu.max``: a quota, or ``max``, and the period, in microseconds."""
    words = " ".join(lines(folder / "cpu.max")).split()
    return ratio(words[0], words[1] if len(words) > 1 else "100000") if words else None


def quota_v1(folder: Path) -> float | None:
    """Cores by the files of cgroup v1, where a quota of −1 is none."""
    quota, period = (
        "".join(lines(folder / f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period")
    )
    return ratio(quota, period)


def ratio(quota: str, period: str) -> float | None:
    """Quota over period where both are positive numbers."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def lines(path: Path) -> list[str]:
    """The lines of a file; none where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def unescaped(path: str) -> str:
    """A path of mountinfo, in which a space is written as an octal number."""
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, sign)
    return path

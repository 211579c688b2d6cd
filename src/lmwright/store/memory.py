"""Memory: the peak of a piece of work, and how much this machine lets a process have."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import psutil

PROCESS = Path("/proc/self")
GROUPS = Path("/sys/fs/cgroup")


class Peak:
    """The largest resident memory of this process since this object was made.

    Linux can forget the peak that it kept so far; elsewhere, and where ``clear_refs`` may not
    be written, the number is the peak since the process began, and ``own`` is False.
    """

    def __init__(self) -> None:
        try:
            (PROCESS / "clear_refs").write_text("5")
            self.own = resident("VmHWM") is not None
        except OSError:
            self.own = False

    def bytes(self) -> int:
        """The peak so far."""
        kept = resident("VmHWM") if self.own else None
        return peak_memory() if kept is None else kept


def peak_memory() -> int:
    """The largest resident memory of this process since it began, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident(name: str) -> int | None:
    """Bytes of a line of /proc/self/status (``VmRSS`` now, ``VmHWM`` the peak), or None."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", (PROCESS / "status").read_text(), re.M)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def machine_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or less where its group says so.

    The limits of the process's own control group and of those above it, versions 1 and 2.
    """
    return min([psutil.virtual_memory().total, *group_limits()])


def group_limits() -> list[int]:
    """The limits of the control groups that this process is in; empty where there are none."""
    try:
        lines = (PROCESS / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, file = (
            (GROUPS / "memory", "memory.limit_in_bytes") if controllers else (GROUPS, "memory.max")
        )
        own = root / place.strip("/")
        # In a container the path is often that of the host, and its own group is the root here.
        for folder in (own, *(parent for parent in own.parents if parent.is_relative_to(root))):
            try:
                found.append(int((folder / file).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return found

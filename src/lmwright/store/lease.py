"""A lease on a stamp: of two runs that want the same result, one works and the other waits.

The holder beats a counter; a waiter watches the counter by its own monotonic clock, so no wall
clock matters. A holder on this machine whose process is gone loses the lease at once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import sqlalchemy as sa

from lmwright.core.errors import LmwrightError
from lmwright.core.hashing import hash_bytes
from lmwright.store.database import Database, leases

BEAT = 2.0
PATIENCE = 20.0
"""Seconds between beats, and without a beat before a lease is taken over."""
SWEEP = "sweep"
"""The lease under which ``gc`` removes what nothing needs."""


@contextmanager
def lease(
    database: Database, stamp: str, waiting: Callable[[str], None] = lambda owner: None
) -> Iterator[None]:
    """Hold the lease on ``stamp``; first wait while another run that is alive holds it.

    ``waiting`` is told once who holds it.
    """
    me = f"{identity()} {threading.get_ident()} {time.monotonic_ns()}"
    acquire(database, stamp, me, waiting)
    done = threading.Event()
    heart = threading.Thread(target=beat, args=(database, stamp, me, done), daemon=True)
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        # Where it cannot be given back, a full disk say, it is taken over when the beat is missed.
        with suppress(LmwrightError), database.write() as connection:
            connection.execute(leases.delete().where(mine(stamp, me)))


@contextmanager
def run_lease(database: Database, run: str) -> Iterator[None]:
    """Say for as long as a run works that it does, so that no ``gc`` takes what it relies on.

    The run says so first and then looks for a sweep, the sweep begins first and then looks for
    runs; so one of them sees the other, whoever comes first.
    """
    with lease(database, hash_bytes(run.encode())):
        with lease(database, SWEEP):
            pass  # a sweep that had begun is over
        yield


def working(database: Database) -> bool:
    """Whether anybody but a sweep holds a lease; another machine's is watched for a beat."""
    query = sa.select(leases).where(leases.c.stamp != SWEEP)
    with database.read() as connection:
        held = {(row.owner, row.beat) for row in connection.execute(query) if not gone(row.owner)}
    here = socket.gethostname()
    if not held or any(owner.split(" ")[0] == here for owner, _ in held):
        return bool(held)
    time.sleep(PATIENCE)
    with database.read() as connection:
        return any((row.owner, row.beat) not in held for row in connection.execute(query))


def acquire(database: Database, stamp: str, me: str, waiting: Callable[[str], None]) -> None:
    """Take the lease, waiting for a live holder and taking over from a dead one."""
    seen: tuple[str, int] | None = None
    since = time.monotonic()
    while True:
        with database.write() as connection:
            row = connection.execute(sa.select(leases).where(leases.c.stamp == stamp)).first()
            now = (row.owner, row.beat) if row else None
            if now != seen:
                since = time.monotonic()
            if now is None or gone(now[0]) or time.monotonic() - since > PATIENCE:
                connection.execute(leases.delete().where(leases.c.stamp == stamp))
                connection.execute(leases.insert().values(stamp=stamp, owner=me, beat=0))
                return
        if seen is None:
            waiting(now[0])
        seen = now
        time.sleep(0.25)


def beat(database: Database, stamp: str, me: str, done: threading.Event) -> None:
    """Advance the counter until told to stop; a database that is busy for once is no death."""
    while not done.wait(BEAT):
        try:
            with database.write() as connection:
                connection.execute(
                    leases.update().where(mine(stamp, me)).values(beat=leases.c.beat + 1)
                )
        except LmwrightError:
            continue


def mine(stamp: str, me: str) -> sa.ColumnElement[bool]:
    """The row of this holder."""
    return (leases.c.stamp == stamp) & (leases.c.owner == me)


def identity() -> str:
    """This process: host, process number and when it began (numbers are used again)."""
    return f"{socket.gethostname()} {os.getpid()} {born(os.getpid())}"


def gone(owner: str) -> bool:
    """Whether the holder is a process of this machine that no longer lives."""
    host, pid, birth = owner.split(" ")[:3]
    if host != socket.gethostname():
        return False
    return born(int(pid)) != birth


def born(pid: int) -> str:
    """When a process began, or nothing if it is not there or has ended.

    In ticks since boot where the system tells: a time of the day would change with the clock.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""

"""A lease on a stamp: of two runs that want the same result, one works and the other waits.

The holder beats a counter; a waiter watches the counter by its own monotonic clock, so no wall
clock matters. A holder on this machine keeps the lease while its process is there, stopped by
Ctrl-Z or held up by a disk too, and loses it at once when it is gone. One on another machine
loses it when it misses its beat; if it lives all the same it learns of it before it commits.
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
"""Seconds between beats, and without a beat before another machine's lease is taken over."""
SWEEP = "sweep"
"""The lease under which ``gc`` removes what nothing needs."""


class Held:
    """A lease in hand: asked on the way and before a commit whether it still is."""

    def __init__(self, database: Database, stamp: str, me: str) -> None:
        self.database, self.stamp, self.me = database, stamp, me
        self.lost = threading.Event()

    def check(self) -> None:
        """Raise LmwrightError if a beat has found that another run took the lease over."""
        if self.lost.is_set():
            raise LmwrightError(
                f"this run no longer holds the lease on {self.stamp[:12]}: another machine "
                f"takes over what shows no sign of life for {PATIENCE:g} s",
                "one run at a time on a result",
                "run again: it waits for the other one and reuses what that makes",
            )

    def confirm(self) -> None:
        """The same from the database: after a long stop the next beat may be still to come."""
        with self.database.read() as connection:
            query = sa.select(leases.c.stamp).where(mine(self.stamp, self.me))
            if connection.execute(query).first() is None:
                self.lost.set()
        self.check()

    def give_back(self) -> None:
        """Let another have the lease."""
        with self.database.write() as connection:
            connection.execute(leases.delete().where(mine(self.stamp, self.me)))

    def give_back_later(self) -> None:
        """Try until it can be given back."""
        while True:
            time.sleep(BEAT)
            with suppress(LmwrightError):
                return self.give_back()


@contextmanager
def lease(
    database: Database, stamp: str, waiting: Callable[[str], None] = lambda owner: None
) -> Iterator[Held]:
    """Hold the lease on ``stamp``; first wait while another run that is alive holds it.

    ``waiting`` is told once who holds it.
    """
    me = f"{identity()} {threading.get_ident()} {time.monotonic_ns()}"
    acquire(database, stamp, me, waiting)
    held = Held(database, stamp, me)
    done = threading.Event()
    heart = threading.Thread(target=beat, args=(held, done), daemon=True)
    heart.start()
    try:
        yield held
    finally:
        done.set()
        heart.join()
        try:
            held.give_back()
        except LmwrightError:  # A full disk, say; and nobody takes it from a process that lives.
            threading.Thread(target=held.give_back_later, daemon=True).start()


@contextmanager
def run_lease(
    database: Database, run: str, waiting: Callable[[str], None] = lambda owner: None
) -> Iterator[None]:
    """Say for as long as a run works that it does, so that no ``gc`` takes what it relies on.

    The run says so first and then looks for a sweep, the sweep begins first and then looks for
    runs; so one of them sees the other, whoever comes first. ``waiting`` is told who sweeps.
    """
    with lease(database, hash_bytes(run.encode())):
        with lease(database, SWEEP, waiting):
            pass  # a sweep that had begun is over
        yield


def working(database: Database) -> bool:
    """Whether anybody but a sweep holds a lease; another machine's is watched for a beat."""
    query = sa.select(leases).where(leases.c.stamp != SWEEP)
    with database.read() as connection:
        held = {(row.owner, row.beat) for row in connection.execute(query) if not gone(row.owner)}
    if not held or any(here(owner) for owner, _ in held):
        return bool(held)
    time.sleep(PATIENCE)
    with database.read() as connection:
        return any((row.owner, row.beat) not in held for row in connection.execute(query))


def acquire(database: Database, stamp: str, me: str, waiting: Callable[[str], None]) -> None:
    """Take the lease, waiting for a live holder and taking over from a dead or silent one."""
    seen: tuple[str, int] | None = None
    since = time.monotonic()
    while True:
        with database.write() as connection:
            row = connection.execute(sa.select(leases).where(leases.c.stamp == stamp)).first()
            now = (row.owner, row.beat) if row else None
            if now != seen:
                since = time.monotonic()
            late = time.monotonic() - since > PATIENCE
            if now is None or gone(now[0]) or (late and not here(now[0])):
                connection.execute(leases.delete().where(leases.c.stamp == stamp))
                connection.execute(leases.insert().values(stamp=stamp, owner=me, beat=0))
                return
        if seen is None:
            waiting(now[0])
        seen = now
        time.sleep(0.25)


def beat(held: Held, done: threading.Event) -> None:
    """Advance the counter until told to stop, or until there is none to advance.

    A database that is busy for once is no death.
    """
    while not done.wait(BEAT):
        try:
            with held.database.write() as connection:
                ours = leases.update().where(mine(held.stamp, held.me))
                beaten = connection.execute(ours.values(beat=leases.c.beat + 1)).rowcount
        except LmwrightError:
            continue
        if not beaten:
            held.lost.set()
            return


def mine(stamp: str, me: str) -> sa.ColumnElement[bool]:
    """The row of this holder."""
    return (leases.c.stamp == stamp) & (leases.c.owner == me)


def identity() -> str:
    """This process: host, process number and when it began (numbers are used again)."""
    return f"{socket.gethostname()} {os.getpid()} {born(os.getpid())}"


def process_of(owner: str) -> str:
    """The holder in words."""
    host, pid = owner.split(" ")[:2]
    return f"process {pid}" + ("" if here(owner) else f" on {host}")


def is_running(database: Database, run: str) -> bool:
    """Whether a run's lease is held by a process that lives, or by another machine's."""
    query = sa.select(leases.c.owner).where(leases.c.stamp == hash_bytes(run.encode()))
    with database.read() as connection:
        row = connection.execute(query).first()
    return row is not None and not gone(row.owner)


def here(owner: str) -> bool:
    """Whether the holder is a process of this machine."""
    return owner.split(" ")[0] == socket.gethostname()


def gone(owner: str) -> bool:
    """Whether the holder is a process of this machine that no longer lives."""
    _, pid, birth = owner.split(" ")[:3]
    return here(owner) and born(int(pid)) != birth


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

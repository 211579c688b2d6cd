"""Leases: who keeps one, who loses one, and that whoever has lost one commits nothing."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from lmwright.cli.main import main
from lmwright.core.errors import LmwrightError
from lmwright.core.hashing import hash_bytes
from lmwright.core.journal import Journal
from lmwright.store import lease as module
from lmwright.store.database import Database, leases, sqlite_url
from lmwright.store.lease import Held, born, identity, lease, run_lease
from lmwright.store.progress import Lines
from lmwright.store.run import Silent, StageWork, plan_recipe, run_recipe
from lmwright.store.store import Store
from tests.store.test_run import events, recipe
from tests.waiting import until

STAMP = "a" * 64


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database of its own."""
    opened = Database(sqlite_url(tmp_path / "registry.db"))
    yield opened
    opened.close()


def rob(database: Database, stamp: str) -> None:
    """Give a lease to another machine, which then says nothing more."""
    with database.write() as connection:
        ours = leases.update().where(leases.c.stamp == stamp)
        connection.execute(ours.values(owner="elsewhere 7 7 1 1"))


def held_by(database: Database) -> list[str]:
    """The owners of all leases."""
    with database.read() as connection:
        return [row.owner for row in connection.execute(sa.select(leases))]


def test_a_process_of_this_machine_keeps_its_lease_until_it_is_gone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = f"{identity().split()[0]} {child.pid} {born(child.pid)} 1 1"
    with database.write() as connection:
        connection.execute(leases.insert().values(stamp=STAMP, owner=owner, beat=0))
    child.send_signal(signal.SIGSTOP)
    taken = threading.Event()

    def take() -> None:
        with lease(database, STAMP):
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(1.5)
    assert held_by(database) == [owner]
    child.kill()
    child.communicate()
    assert taken.wait(30)
    thread.join()


def test_a_run_is_running_while_its_process_lives_and_killed_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    run = run_recipe(recipe(), store).name
    path = store.folder / "runs" / run / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "run ended" not in line))

    def told() -> str:
        capsys.readouterr()
        assert main(["runs", "--store", str(tmp_path)]) == 0
        return capsys.readouterr().out.rstrip().rpartition("  ")[2]

    with run_lease(store.database, run):
        assert told() == "running"
    assert told() == "killed"
    dead = f"{identity().split()[0]} 1 not-its-birth 1 1"
    with store.database.write() as connection:
        stamp = hash_bytes(run.encode())
        connection.execute(leases.insert().values(stamp=stamp, owner=dead, beat=0))
    assert told() == "killed"


def test_who_is_waited_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    stamp = next(row.stamp for row in plan_recipe(recipe(), store) if row.stamp)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = f"{identity().split()[0]} {child.pid} {born(child.pid)} 1 1"
    with store.database.write() as connection:
        connection.execute(leases.insert().values(stamp=stamp, owner=owner, beat=0))
    ended = threading.Timer(0.5, child.communicate, (b"\n",))
    ended.start()
    run_recipe(recipe(), store, shown=Lines())
    ended.join()
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(f"waits for process {child.pid}, which does the same work")


def test_a_holder_that_lost_its_lease_learns_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(database, STAMP) as held:
        held.confirm()
        rob(database, STAMP)
        held.check()  # no beat has told it yet
        with pytest.raises(LmwrightError, match="no longer holds the lease"):
            held.confirm()
    monkeypatch.setattr(module, "BEAT", 0.05)
    with lease(database, "b" * 64) as held:
        rob(database, "b" * 64)
        assert held.lost.wait(30)
        with pytest.raises(LmwrightError, match="no longer holds the lease"):
            held.check()
    assert held_by(database) == ["elsewhere 7 7 1 1"] * 2, "what others hold is not given back"


def test_a_lease_that_cannot_be_given_back_at_once_is_given_back_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    whole, full = database.write, threading.Event()

    @contextmanager
    def write() -> Iterator[sa.Connection]:
        if full.is_set():
            raise LmwrightError("the database says: disk is full")
        with whole() as connection:
            yield connection

    monkeypatch.setattr(database, "write", write)
    with lease(database, STAMP):
        full.set()
    assert len(held_by(database)) == 1
    full.clear()
    until(lambda: not held_by(database))


def test_two_holders_of_one_stamp_write_apart(tmp_path: Path, database: Database) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    held = Held(database, STAMP, "me")

    def work() -> StageWork:
        return StageWork("draw", {}, tmp_path / "work", journal, Silent(), held)

    first, second = work(), work()
    (second.out("numbers") / "numbers.json").write_text("[1]")
    assert not list(first.out("numbers").iterdir())
    assert first.scratch == second.scratch
    held.lost.set()
    with pytest.raises(LmwrightError, match="no longer holds the lease"):
        first.progress(1, 2)
    journal.close()


def in_the_middle(
    store: Store, act: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the toy do something in the middle of its sum, once: ``act`` on the stamp at work."""
    calls = itertools.count(1)

    def scaled(total: int) -> int:
        if next(calls) == 2:
            (home,) = (store.folder / "work").iterdir()
            act(home.name)
        return total * 3

    monkeypatch.setattr("tests.store.toy.scaled", scaled)


def test_a_run_that_was_robbed_commits_nothing_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    wanted = run_recipe(recipe(), Store(tmp_path / "alone")).artifacts
    store = Store(tmp_path / "store")
    in_the_middle(store, lambda stamp: rob(store.database, stamp), monkeypatch)
    with pytest.raises(LmwrightError, match="no longer holds the lease"):
        run_recipe(recipe(), store)
    assert [result.kind for result in store.all_results()] == ["draw"]
    assert [path.name for path in (store.folder / "artifacts").iterdir()] == [wanted["numbers"]]
    then = run_recipe(recipe(), store)
    assert then.artifacts == wanted
    assert events(store, then.name, "began at")[0]["place"] == 4


def test_a_run_that_wakes_after_another_did_its_work_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    store = Store(tmp_path)
    others = []

    def robbed(stamp: str) -> None:
        rob(store.database, stamp)
        others.append(run_recipe(recipe(), Store(tmp_path)))

    in_the_middle(store, robbed, monkeypatch)
    with pytest.raises(LmwrightError, match="no longer holds the lease"):
        run_recipe(recipe(), store)
    then = run_recipe(recipe(), store)
    assert len(events(store, then.name, "stage reused")) == 2
    assert then.artifacts == others[0].artifacts
    assert all(store.verify(content) for content in then.artifacts.values())
    assert len(list(store.all_results())) == len(list((tmp_path / "artifacts").iterdir())) == 2
    assert not list((tmp_path / "work").iterdir())

"""The store's tests once more, on a real PostgreSQL; and what only a server can do."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.store.database import MIGRATIONS, Database
from lmwright.store.lease import lease
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from tests.store import test_run, test_versions
from tests.store.postgres import programs, server
from tests.store.test_run import recipe

ROOT = Path(__file__).parents[2]
SQLITE_ONLY = {
    "test_the_index_is_rebuilt_from_the_folders",
    "test_a_database_that_another_is_just_beginning_is_waited_for",
}
"""The first removes SQLite's files, and is told for a server below; the second locks one."""

for module in (test_run, test_versions):
    for name in dir(module):
        if name.startswith("test_") and name not in SQLITE_ONLY:
            globals()[name] = getattr(module, name)

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The server's address."""
    place = programs()
    if place is None:
        pytest.skip("this machine lacks PostgreSQL (Debian: apt-get install postgresql)")
    with server(place) as address:
        yield address


@pytest.fixture
def fresh(address: str) -> Callable[[], str]:
    """Makes empty databases and gives their addresses."""

    def make() -> str:
        name = f"store{next(NUMBERS)}"
        engine = sa.create_engine(f"{address}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return f"{address}/{name}"

    return make


@pytest.fixture(autouse=True)
def opened(fresh: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Store]]:
    """The borrowed tests open their stores on the server: one database for each folder."""
    databases: dict[Path, str] = {}
    stores: list[Store] = []

    one_at_a_time = threading.Lock()

    def open_store(folder: Path) -> Store:
        with one_at_a_time:
            if folder not in databases:
                databases[folder] = fresh()
        stores.append(Store(folder, databases[folder]))
        assert not (folder / "registry.db").exists()
        return stores[-1]

    for module in (test_run, test_versions):
        monkeypatch.setattr(module, "Store", open_store)
    yield stores
    for store in stores:
        store.database.close()


def test_an_empty_database_is_filled_from_the_folders(
    tmp_path: Path, fresh: Callable[[], str], opened: list[Store]
) -> None:
    store = Store(tmp_path, fresh())
    run = run_recipe(recipe(), store)
    store.decide("promote", {"alias": "toy@production"})
    store.set_state("loop", {"at": "observed"})
    again = Store(tmp_path, fresh())
    opened += [store, again]
    assert [r.kind for r in again.users(run.artifacts["numbers"])] == ["total"]
    assert again.state("loop") == {"at": "observed"}
    assert again.decide("rollback", {})["number"] == 2


def test_two_processes_do_the_work_once(tmp_path: Path, fresh: Callable[[], str]) -> None:
    command = [sys.executable, "-m", "tests.store.toy_process", str(tmp_path), fresh(), "", "200"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    running = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    told = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert sum(one["worked"] for one in told) == 2
    assert len({json.dumps(one["artifacts"], sort_keys=True) for one in told}) == 1
    assert sorted(one["decision"] for one in told) == [1, 2, 3]


def test_writers_do_not_interleave(tmp_path: Path, fresh: Callable[[], str], opened) -> None:
    address = fresh()
    opened += [Store(tmp_path, address) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda s=store: [s.decide("note", {}) for _ in range(5)])
        for store in opened
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [entry["number"] for entry in opened[0].decisions()] == list(range(1, 21))


def test_a_lease_is_held_by_one(fresh: Callable[[], str]) -> None:
    database = Database(fresh())
    told: list[str] = []
    held = threading.Event()

    def wait() -> None:
        with lease(database, "a" * 64, told.append):
            told.append("got it")

    with lease(database, "a" * 64):
        thread = threading.Thread(target=wait)
        thread.start()
        held.wait(0.6)
        assert len(told) == 1
    thread.join(10)
    assert told[1:] == ["got it"]
    database.close()


def test_an_older_schema_is_brought_up_to_date(fresh: Callable[[], str]) -> None:
    address = fresh()
    Database(address).close()

    def second(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE states ADD COLUMN note TEXT")

    newer = Database(address, (*MIGRATIONS, second))
    with newer.read() as connection:
        assert connection.exec_driver_sql("SELECT note FROM states").all() == []
    newer.close()
    with pytest.raises(LmwrightError, match=r"newer lmwright"):
        Database(address)


def test_a_server_that_is_gone_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(LmwrightError, match=r"LMWRIGHT_DATABASE.*start it"):
        Store(tmp_path, "postgresql+psycopg://lmwright@127.0.0.1:9/none")
    with pytest.raises(BadInput, match=r"address"):
        Store(tmp_path, "no address")

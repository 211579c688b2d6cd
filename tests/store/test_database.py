"""A store is where its path says, whatever signs the path has."""

from pathlib import Path

import pytest

from lmwright.core.errors import BadInput
from lmwright.serve.traffic import Unchanged
from lmwright.store.database import Database, sqlite_url
from lmwright.store.store import Store


@pytest.mark.parametrize("name", ["100%", "a%41", "why?", "a?mode=memory", "a#b", "a b&c", "Größe"])
def test_the_database_stands_beside_the_folders(tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / name, tmp_path / (name + "2")):
        store = Store(folder)
        store.set_state("where", {"folder": folder.name})
        store.database.close()
    assert sorted(tmp_path.rglob("registry.db")) == sorted(
        [tmp_path / name / "registry.db", tmp_path / (name + "2") / "registry.db"]
    )
    store = Store(tmp_path / name)
    assert store.state("where") == {"folder": name}
    store.database.close()


@pytest.mark.parametrize("name", ["100%", "a%41", "why?", "a#b", "caf\udce9"])
def test_a_log_is_looked_at_where_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "traffic.db"
    path.parent.mkdir()
    made = Database(sqlite_url(path))
    made.close()
    looked = Unchanged(path)
    with looked.read() as connection:
        rows = connection.exec_driver_sql("SELECT number FROM schema_version").all()
    looked.close()
    assert rows and sorted(tmp_path.rglob("*.db")) == [path]


def test_a_path_that_not_every_library_can_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--store"):
        Store(tmp_path / "caf\udce9")

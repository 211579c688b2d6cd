"""The registry's database: tables, migrations and transactions, on SQLite or PostgreSQL.

It is an index. The folders of the store are the truth, and the index can be rebuilt from them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from lmwright.core.errors import BadInput, Corrupt, LmwrightError, MissingPart

schema = sa.MetaData()

results = sa.Table(
    "results",
    schema,
    sa.Column("stamp", sa.String(64), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("outcome", sa.String(64), nullable=False),
    sa.Column("reproduced", sa.Boolean, nullable=False),
)
edges = sa.Table(
    "edges",
    schema,
    sa.Column("stamp", sa.String(64), primary_key=True),
    # Programs of before migration 2 that still run write attempt 0 only, and do not name it.
    sa.Column("attempt", sa.Integer, primary_key=True, server_default="0"),
    sa.Column("role", sa.String(8), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("artifact", sa.String(64), nullable=False, index=True),
)
decisions = sa.Table(
    "decisions",
    schema,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("entry", sa.Text, nullable=False),
)
leases = sa.Table(
    "leases",
    schema,
    sa.Column("stamp", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
states = sa.Table(
    "states",
    schema,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
version = sa.Table("schema_version", schema, sa.Column("number", sa.Integer, primary_key=True))

INDEXED = "store: indexed"
"""The state that says that the index was once made whole."""


def create_first(connection: sa.Connection) -> None:
    """Migration 1: all tables."""
    schema.create_all(connection)


def edges_of_every_attempt(connection: sa.Connection) -> None:
    """Migration 2: edges were those of attempt 0; the store makes the index anew from its folders.

    In an empty database migration 1 has made them as they are now.
    """
    edges.drop(connection)
    edges.create(connection)
    connection.execute(states.delete().where(states.c.name == INDEXED))


Migrations = tuple[Callable[[sa.Connection], None], ...]
"""In order; a database at version n has had the first n. Never edit one that has shipped."""

MIGRATIONS: Migrations = (create_first, edges_of_every_attempt)


PATIENCE = 60
"""Seconds to wait for other writers."""
BUSY = (
    "a writable disk and a database that is not locked for over a minute",
    "free space or wait, then run again; nothing that was reported done is lost",
)
ABSENT = (
    "the server that LMWRIGHT_DATABASE names, reachable and with room",
    "start it, then run again; nothing that was reported done is lost",
)


class Database:
    """Transactions on a database. Every write is one immediate, fully synchronous transaction."""

    def __init__(self, url: str | sa.URL, migrations: Migrations | None = None) -> None:
        self.url = url
        self.migrations = MIGRATIONS if migrations is None else migrations
        self.dialect = url.partition(":")[0] if isinstance(url, str) else url.drivername
        self.sqlite = self.dialect.startswith("sqlite")
        try:
            self.engine = sa.create_engine(url, pool_pre_ping=not self.sqlite)
        except (ArgumentError, ValueError):
            raise BadInput(
                "the address of the database cannot be read",
                "an address of SQLite or PostgreSQL",
                "as in postgresql+psycopg://user@host/name",
            ) from None
        except ModuleNotFoundError as error:
            raise MissingPart(
                f"{self.dialect} needs the package {error.name!r}",
                "the extra postgres",
                "pip install -c constraints.txt -e '.[postgres]'",
            ) from None
        if self.sqlite:
            sa.event.listen(self.engine, "connect", configure_sqlite)
        try:
            self.migrate()
        except LmwrightError:
            self.close()
            raise

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer can interleave with."""
        with self.faults(), self.engine.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            with connection.begin() if not self.sqlite else sqlite_commit(connection):
                if not self.sqlite:
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7295011)")
                yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries."""
        with self.faults(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn the driver's faults into words."""
        try:
            yield
        except OperationalError as error:
            wanted, cure = BUSY if self.sqlite else ABSENT
            raise LmwrightError(words(error), wanted, cure) from error
        except DatabaseError as error:
            cure = "move registry.db away" if self.sqlite else "empty the database"
            raise Corrupt(
                words(error),
                "a readable database",
                f"{cure}; it is rebuilt from the store's folders",
            ) from error

    def migrate(self) -> None:
        """Bring the schema up to date; refuse one that is newer than this program."""
        with self.write() as connection:
            version.create(connection, checkfirst=True)
            have = connection.execute(sa.select(sa.func.max(version.c.number))).scalar() or 0
            if have > len(self.migrations):
                raise LmwrightError(
                    f"the database has schema version {have}",
                    f"at most {len(self.migrations)}",
                    "use the newer lmwright that wrote it",
                )
            for number in range(have, len(self.migrations)):
                self.migrations[number](connection)
                connection.execute(version.insert().values(number=number + 1))

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def words(error: DatabaseError) -> str:
    """What the driver says, on one line."""
    return f"the database says: {' '.join(str(error.orig).split())}"


def configure_sqlite(connection: sqlite3.Connection, _: object) -> None:
    """Write-ahead log, full synchronisation, our own BEGIN, patience with other writers.

    What is deleted is overwritten: a text past its retention must not stay in a free page.
    """
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {1000 * PATIENCE}")
    write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch a database to the write-ahead log; of several that do so at once each waits.

    SQLite's own patience does not reach this far: a file that two open for the first time, and
    that one has begun to switch, is at once "locked" for the other.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


@contextmanager
def sqlite_commit(connection: sa.Connection) -> Iterator[None]:
    """Commit, or roll back when the body raised."""
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def sqlite_url(path: Path) -> sa.URL:
    """The SQLAlchemy address of a database file, whatever signs its path has."""
    return sa.URL.create("sqlite", database=str(path))

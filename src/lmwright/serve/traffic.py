"""The traffic log: what was served, by which version, and what people said of it afterwards.

A database of its own with one writer, which takes what waits in one transaction. Texts are kept
only where the recipe allows it, with personal data masked, and no longer than it says.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from lmwright.core.columns import Role, Row, canonical
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Refused
from lmwright.core.task import Task, role_columns
from lmwright.old_format import traffic_answer, traffic_feedback
from lmwright.serve.rows import Answer
from lmwright.serve.served import Served
from lmwright.store.database import Database, sqlite_url
from lmwright.store.store import Store
from lmwright.text.personal import mask_in_place, mask_personal

schema = sa.MetaData()

answers = sa.Table(
    "answers",
    schema,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("time", sa.Float, nullable=False, index=True),
    sa.Column("client", sa.String(200), nullable=False),
    sa.Column("version", sa.String(64), nullable=False, index=True),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("inputs", sa.Text),
)
feedback = sa.Table(
    "feedback",
    schema,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(40), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("client", sa.String(200), nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("rating", sa.Float),
    sa.Column("part", sa.String(8), nullable=False),
    sa.UniqueConstraint("id", "place"),
    sqlite_autoincrement=True,  # a number that was forgotten is not given again
)
windows = sa.Table(
    "windows",
    schema,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("signs", sa.Text, nullable=False),
)


def create_first(connection: sa.Connection) -> None:
    """Migration 1."""
    schema.create_all(connection)


def number_feedback_once(connection: sa.Connection) -> None:
    """Migration 2: the first tables gave the numbers of forgotten feedback again."""
    if "label" not in columns_of(connection, "feedback"):
        return  # made by migration 1 as it is now
    connection.exec_driver_sql("ALTER TABLE feedback RENAME TO feedback_before")
    connection.exec_driver_sql(NUMBERED)
    connection.exec_driver_sql("INSERT INTO feedback SELECT * FROM feedback_before")
    connection.exec_driver_sql("DROP TABLE feedback_before")


NUMBERED = """
CREATE TABLE feedback (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id VARCHAR(40) NOT NULL, place INTEGER NOT NULL,
    time FLOAT NOT NULL, client VARCHAR(200) NOT NULL, label VARCHAR(200) NOT NULL,
    part VARCHAR(8) NOT NULL, UNIQUE (id, place))
"""
"""The feedback's table as migration 2 left it."""


def columns_of_tasks(connection: sa.Connection) -> None:
    """Migration 3: a text, its label and probabilities become the columns of a task as JSON."""
    if "label" not in columns_of(connection, "feedback"):
        return  # made by migration 1 as it is now
    for table in (answers, feedback):
        connection.exec_driver_sql(f"ALTER TABLE {table.name} RENAME TO {table.name}_before")
    for index in answers.indexes:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {index.name}")
    schema.create_all(connection, [answers, feedback])
    old = connection.exec_driver_sql("SELECT * FROM answers_before").mappings()
    for row in old:
        connection.execute(answers.insert().values(traffic_answer(dict(row))))
    old = connection.exec_driver_sql("SELECT * FROM feedback_before ORDER BY number").mappings()
    for row in old:
        connection.execute(feedback.insert().values(traffic_feedback(dict(row))))
    connection.exec_driver_sql(GIVEN_NUMBERS)
    for table in (answers, feedback):
        connection.exec_driver_sql(f"DROP TABLE {table.name}_before")


GIVEN_NUMBERS = """
INSERT OR REPLACE INTO sqlite_sequence (rowid, name, seq)
SELECT (SELECT rowid FROM sqlite_sequence WHERE name = 'feedback'), 'feedback', seq
FROM sqlite_sequence WHERE name = 'feedback_before'
"""
"""The number of the last feedback, which may be forgotten, is that of the new table too."""


def columns_of(connection: sa.Connection, table: str) -> list[str]:
    """The names of a table's columns."""
    return [column["name"] for column in sa.inspect(connection).get_columns(table)]


PARTS = ("train", "gate")
PATIENCE = 30.0
WAITING = 50_000
"""Answers that may wait for the writer; beyond that the log says how many it lost."""


def traffic_folder(store: Store, alias: str) -> Path:
    """Where an alias's log is: two aliases of one recipe learn from no feedback of each other."""
    return store.folder / "traffic" / alias


DATABASE = "traffic.db"
SETTINGS = "settings.json"
"""Beside the log: what it was last opened with, so that its retention is known without a server."""


class Unchanged(Database):
    """A log's database for those who only look: nothing in it is created or brought up to date."""

    def __init__(self, path: Path) -> None:
        asked = {"mode": "ro", "uri": "true"}
        super().__init__(
            sa.URL.create("sqlite", database=f"file:{quote(bytes(path))}", query=asked)
        )

    def migrate(self) -> None:
        """Leave the schema to the server."""


class Log:
    """What a log holds of answers, to look at: neither it nor its settings change."""

    def __init__(self, folder: Path) -> None:
        self.database: Database = Unchanged(folder / DATABASE)

    def find(self, answer: str) -> list[dict[str, Any]]:
        """The parts of one answer, for its lineage."""
        query = sa.text("SELECT * FROM answers WHERE id = :id ORDER BY place")
        with self.database.read() as connection:
            rows = connection.execute(query, {"id": answer}).mappings().all()
        # A log that no server has opened since keeps its old columns.
        kept = [traffic_answer(dict(row)) if "probabilities" in row else dict(row) for row in rows]
        return [decoded(row, "answer", "inputs") for row in kept]

    def answers_of(self, version: str) -> list[str]:
        """The ids of the answers that a version (its short name) gave and that are still kept."""
        query = sa.select(answers.c.id).where(answers.c.version == version).distinct()
        with self.database.read() as connection:
            return sorted(row.id for row in connection.execute(query))

    def past_windows(self, version: str | None = None, since: float = 0.0) -> list[dict[str, Any]]:
        """What the detectors said, of all versions or of one, oldest first."""
        query = sa.select(windows).where(windows.c.time >= since).order_by(windows.c.number)
        if version is not None:
            query = query.where(windows.c.version == version)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return [{**row._mapping, "signs": json.loads(row.signs)} for row in rows]

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()


class Traffic(Log):
    """The log of one alias, to write. ``seen`` is called by its thread after each commit."""

    def __init__(
        self,
        folder: Path,
        keep_text: bool,
        retention_days: float,
        gate_share: float,
        seen: Callable[[list[Served]], None] = lambda served: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        migrations = (create_first, number_feedback_once, columns_of_tasks)
        self.database = Database(sqlite_url(folder / DATABASE), migrations)
        self.keep_text, self.retention_days, self.gate_share = keep_text, retention_days, gate_share
        settings = {"keep_text": keep_text, "retention_days": retention_days}
        write_json(folder / SETTINGS, {**settings, "gate_share": gate_share})
        self.seen = seen
        self.waiting: queue.Queue[Served | threading.Event | None] = queue.Queue(WAITING)
        self.lost = 0
        self.fault = ""
        self.writer = threading.Thread(target=self._write, name="traffic", daemon=True)
        self.writer.start()

    @classmethod
    def again(cls, folder: Path) -> Traffic:
        """The log in a folder, with the settings that it was last opened with."""
        return cls(folder, **json.loads((folder / SETTINGS).read_bytes()))

    def observe(self, served: Served) -> None:
        """Take an answer; never blocks and never fails a request."""
        try:
            self.waiting.put_nowait(served)
        except queue.Full:
            self.lost += 1

    def flush(self) -> None:
        """Wait until everything taken so far is written, or ``PATIENCE`` has passed."""
        written = threading.Event()
        self.waiting.put(written, timeout=PATIENCE)
        written.wait(PATIENCE)

    def close(self) -> None:
        """Write what waits and end."""
        self.waiting.put(None)
        self.writer.join(60)
        super().close()

    def give(self, answer: str, place: int, given: Given, task: Task, client: str) -> str:
        """Record the targets that an answered row should have had, or a rating; returns its part.

        The part is drawn by the row itself, so that a row never stands on both sides. A target
        that is corrected keeps its number: it is no new one. Raises BadInput for an unknown
        answer or a target that cannot be meant, Refused for one that the answered row cannot have.
        """
        right = None if given.target is None else task.corrected(given.target)
        target = None if right is None else json.dumps(self.without_texts(task, "target", right))
        self.flush()
        with self.database.write() as connection:
            where = (answers.c.id == answer) & (answers.c.place == place)
            row = connection.execute(sa.select(answers).where(where)).first()
            if row is None:
                raise BadInput("there is no such answer", "id and index of an answer given here")
            inputs = json.loads(row.inputs) if row.inputs else None
            if inputs and right is not None and (fault := task.fault({**inputs, **right})):
                raise Refused(fault)
            part = part_of(bare(task, inputs) if inputs else f"{answer} {place}", self.gate_share)
            said: dict[str, Any] = {"time": time.time(), "client": client}
            said |= {"target": target} if target is not None else {}
            said |= {"rating": given.rating} if given.rating is not None else {}
            same = (feedback.c.id == answer) & (feedback.c.place == place)
            if not connection.execute(feedback.update().where(same).values(said)).rowcount:
                connection.execute(
                    feedback.insert().values(id=answer, place=place, part=part, **said)
                )
        return part

    def labelled(self, version: str | None = None, since: float = 0.0) -> list[dict[str, Any]]:
        """Feedback with targets, and the answers that it is about; what was said last at the end.

        A rating alone is no target, nor is one whose text was not kept: nothing is learnt from
        them.
        """
        joined = feedback.join(
            answers, (answers.c.id == feedback.c.id) & (answers.c.place == feedback.c.place)
        )
        query = (
            sa.select(
                feedback.c.number,
                feedback.c.target,
                feedback.c.part,
                feedback.c.time,
                answers.c.version,
                answers.c.answer,
                answers.c.inputs,
                answers.c.id,
                answers.c.place,
            )
            .select_from(joined)
            .where((feedback.c.time >= since) & feedback.c.target.is_not(None))
            .order_by(feedback.c.time, feedback.c.number)
        )
        if version is not None:
            query = query.where(answers.c.version == version)
        with self.database.read() as connection:
            rows = connection.execute(query).mappings().all()
        found = [decoded(dict(row), "target", "answer", "inputs") for row in rows]
        return [row for row in found if None not in row["target"].values()]

    def ratings(self, version: str) -> list[float]:
        """The ratings (0 to 1) of answers of a version, oldest first."""
        joined = feedback.join(
            answers, (answers.c.id == feedback.c.id) & (answers.c.place == feedback.c.place)
        )
        query = (
            sa.select(feedback.c.rating)
            .select_from(joined)
            .where(feedback.c.rating.is_not(None) & (answers.c.version == version))
            .order_by(feedback.c.time, feedback.c.number)
        )
        with self.database.read() as connection:
            return [float(row.rating) for row in connection.execute(query)]

    def add_window(self, version: str, scores: dict[str, Any]) -> None:
        """Keep what the detectors said of one window."""
        with self.database.write() as connection:
            connection.execute(
                windows.insert().values(time=time.time(), version=version, signs=json.dumps(scores))
            )

    def count(self) -> int:
        """How many texts were answered and are still kept."""
        self.flush()
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(answers)).scalar() or 0

    def newest(self) -> float:
        """When the last answer that is kept was given; the beginning of time if none is."""
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.max(answers.c.time))).scalar() or 0.0

    def forget(self, now: float | None = None) -> int:
        """Remove what is older than the retention allows; returns how many answers went."""
        before = self.oldest(now)
        with self.database.write() as connection:
            connection.execute(feedback.delete().where(feedback.c.time < before))
            gone = connection.execute(answers.delete().where(answers.c.time < before))
        with self.database.read() as connection:  # else the texts would go on in the log of writes
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone.rowcount

    def expired(self, now: float | None = None) -> int:
        """How many answers are older than the retention allows."""
        query = sa.select(sa.func.count()).where(answers.c.time < self.oldest(now))
        with self.database.read() as connection:
            return connection.execute(query).scalar() or 0

    def oldest(self, now: float | None = None) -> float:
        """The moment before which nothing may be kept."""
        return (time.time() if now is None else now) - self.retention_days * 86400

    def _write(self) -> None:
        """Take what waits, commit it together, tell the watcher; a fault is kept, not raised."""
        while True:
            batch = [self.waiting.get()]
            while len(batch) < 500 and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            served = [one for one in batch if isinstance(one, Served)]
            try:
                if served:
                    with self.database.write() as connection:
                        connection.execute(answers.insert(), self._rows(served))
                    self.fault = ""
            except Exception as error:
                self.lost += len(served)
                self.fault = f"the traffic log cannot be written: {error}"
            try:
                self.seen(served)
            except Exception as error:
                self.fault = f"the watch failed on a window: {error}"
            for one in batch:
                if isinstance(one, threading.Event):
                    one.set()
            if None in batch:
                return

    def _rows(self, served: list[Served]) -> list[dict[str, Any]]:
        """The rows of answers, inputs masked or left out."""
        return [
            {
                "id": one.id,
                "place": place,
                "time": one.time,
                "client": one.client,
                "version": one.version,
                "answer": json.dumps(self.kept(answer), ensure_ascii=False),
                "tokens": answer.tokens,
                "inputs": json.dumps(masked_for(answer.task, row), ensure_ascii=False)
                if self.keep_text
                else None,
            }
            for one in served
            for place, (row, answer) in enumerate(zip(one.rows, one.answers, strict=True))
        ]

    def kept(self, answer: Answer) -> dict[str, Any]:
        """What is kept of an answer."""
        return self.without_texts(answer.task, "answer", answer.told)

    def without_texts(self, task: Task, role: Role, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as they are kept: free texts masked, or null where none are kept; labels and
        numbers as they are."""
        free = {column.name for column in role_columns(task, role) if column.free}
        return {
            name: (masked_for(task, value) if self.keep_text else None) if name in free else value
            for name, value in values.items()
        }


@dataclass(frozen=True)
class Given:
    """Feedback on one answer: its right targets, a rating from 0 to 1, or both."""

    target: Mapping[str, Any] | None = None
    rating: float | None = None


def decoded(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A row with the JSON values of the columns named."""
    return {**row, **{name: json.loads(row[name]) if row[name] else None for name in names}}


def masked(value: Any, mask: Callable[[str], str] = mask_personal) -> Any:
    """A row's values with personal data masked in every text."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {name: masked(each, mask) for name, each in value.items()}
    return [masked(each, mask) for each in value] if isinstance(value, list) else value


def masked_for(task: Task, value: Any) -> Any:
    """A row or value, masked; where the task counts characters, by as many of them."""
    counted = any(column.placed for column in task.columns)
    return masked(value, mask_in_place if counted else mask_personal)


def part_of(bare_row: str, gate_share: float) -> str:
    """``train`` or ``gate``, drawn by the letters and digits of the row's inputs."""
    digest = hmac.new(b"lmwright feedback", bare_row.encode(), hashlib.sha256).digest()
    return PARTS[int.from_bytes(digest[:8], "big") / 2**64 < gate_share]


def bare(task: Task, inputs: Row) -> str:
    """What two rows share whose inputs differ in case, spaces and marks only."""
    text = " ".join(canonical(inputs[each.name]) for each in role_columns(task, "input"))
    return "".join(filter(str.isalnum, text.casefold())) or text

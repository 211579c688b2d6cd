"""The store: artifacts under their content hash, results under their stamp, decisions in a chain.

artifacts/HASH/…            a folder, immutable under the hash of its content
results/STAMP/0.json        what a stage did: settings, inputs, outputs, facts (1.json, …: --again)
decisions/00000001.json     promotions, roll-backs, withdrawals; each holds its predecessor's hash
runs/ID/…                   the recipe as run, and its journal
work/STAMP/…                scratch and unfinished outputs of running stages
registry.db                 an index over all of it, rebuilt when it is missing
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lmwright.core.durable import commit_folder, sweep, sync_folder, write_bytes, write_json
from lmwright.core.errors import BadInput, Corrupt, LmwrightError
from lmwright.core.hashing import canonical, hash_bytes, hash_json, hash_tree, tree
from lmwright.store.database import Database, decisions, edges, results, sqlite_url, states

FIRST = "0" * 64
HASH = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True)
class Result:
    """What a stage left: its stamp and parts, inputs and outputs by content hash, and its facts."""

    stamp: str
    attempt: int
    kind: str
    parts: dict[str, Any]
    outputs: dict[str, str]
    facts: dict[str, Any]
    measured: dict[str, Any]
    environment: dict[str, Any]

    @property
    def inputs(self) -> dict[str, str]:
        """Artifact name -> content hash of what the stage read."""
        return dict(self.parts["inputs"])

    @property
    def outcome(self) -> str:
        """The hash of everything that should come out the same when it is done again."""
        return hash_json({"outputs": self.outputs, "facts": self.facts})


class Store:
    """One store on a folder, with its index in SQLite or at ``database`` (a PostgreSQL address)."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.folder = folder.absolute()
        try:
            for name in ("artifacts", "results", "decisions", "runs", "work", "tmp"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"the store {self.folder} cannot be written: {error.strerror}",
                "a folder that this user may write",
                "choose another with --store or LMWRIGHT_STORE",
            ) from None
        index = self.folder / "registry.db"
        fresh = database is None and not index.exists()
        self.database = Database(database or sqlite_url(index))
        if fresh:
            self.rebuild()

    # Artifacts

    def artifact(self, content: str) -> Path:
        """The folder of an artifact. Raises Corrupt when it is gone."""
        path = self.folder / "artifacts" / content
        if not path.is_dir():
            raise Corrupt(
                f"artifact {content[:12]} is not in the store",
                "a folder that was committed",
                "run the recipe again: what is missing is made anew",
            )
        return path

    def add_artifact(self, folder: Path) -> str:
        """Move a finished folder into the store and return its content hash."""
        content = hash_tree(tree(folder))
        commit_folder(folder, self.folder / "artifacts" / content)
        return content

    def verify(self, content: str) -> bool:
        """Whether an artifact still has the content that its name says."""
        path = self.folder / "artifacts" / content
        return path.is_dir() and hash_tree(tree(path)) == content

    # Results

    def result(self, stamp: str) -> Result | None:
        """The first result under a stamp whose outputs are all there, or None."""
        result = self.read_result(stamp, 0)
        if result is None:
            return None
        present = all((self.folder / "artifacts" / h).is_dir() for h in result.outputs.values())
        if present and not self.indexed(stamp, 0):
            self.index(result)  # a kill came between the manifest and the index
        return result if present else None

    def read_result(self, stamp: str, attempt: int) -> Result | None:
        """The manifest of one attempt, or None."""
        path = self.folder / "results" / stamp / f"{attempt}.json"
        try:
            return Result(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise Corrupt(f"{path.name} of result {stamp[:12]} is damaged: {error}") from None

    def add_result(self, result: Result) -> Result:
        """Commit a result: its manifest last, then one row. Later attempts never overwrite.

        Where the manifest of attempt 0 is there but an artifact had been removed, the same
        outcome restores it and a different one is added as a further attempt.
        """
        first = self.read_result(result.stamp, 0)
        if first is not None and first.outcome != result.outcome:
            attempt = len(list((self.folder / "results" / result.stamp).glob("*.json")))
            result = Result(**{**vars(result), "attempt": attempt})
        write_json(self.folder / "results" / result.stamp / f"{result.attempt}.json", vars(result))
        sync_folder(self.folder / "results")
        self.index(result)
        return result

    def index(self, result: Result) -> None:
        """Put a result's row and edges into the database, once."""
        first = self.read_result(result.stamp, 0)
        same = first is None or first.outcome == result.outcome
        with self.database.write() as connection:
            key = (results.c.stamp == result.stamp) & (results.c.attempt == result.attempt)
            connection.execute(results.delete().where(key))
            connection.execute(
                results.insert().values(
                    stamp=result.stamp,
                    attempt=result.attempt,
                    kind=result.kind,
                    outcome=result.outcome,
                    reproduced=same,
                )
            )
            if result.attempt == 0:
                connection.execute(edges.delete().where(edges.c.stamp == result.stamp))
                for role, names in (("in", result.inputs), ("out", result.outputs)):
                    for name, content in names.items():
                        connection.execute(
                            edges.insert().values(
                                stamp=result.stamp, role=role, name=name, artifact=content
                            )
                        )

    def indexed(self, stamp: str, attempt: int) -> bool:
        """Whether the database knows a result."""
        query = sa.select(results.c.stamp).where(
            (results.c.stamp == stamp) & (results.c.attempt == attempt)
        )
        with self.database.read() as connection:
            return connection.execute(query).first() is not None

    def all_results(self) -> Iterator[Result]:
        """Every first result in the store, in the order of their stamps."""
        for folder in sorted((self.folder / "results").iterdir()):
            result = self.read_result(folder.name, 0) if folder.is_dir() else None
            if result is not None:
                yield result

    def makers(self, content: str) -> list[Result]:
        """The results that gave an artifact."""
        return self.touching(content, "out")

    def users(self, content: str) -> list[Result]:
        """The results that read an artifact."""
        return self.touching(content, "in")

    def touching(self, content: str, role: str) -> list[Result]:
        """Results with an edge of ``role`` to an artifact."""
        query = sa.select(edges.c.stamp).where(
            (edges.c.artifact == content) & (edges.c.role == role)
        )
        with self.database.read() as connection:
            stamps = sorted({row.stamp for row in connection.execute(query)})
        found = (self.read_result(stamp, 0) for stamp in stamps)
        return [result for result in found if result is not None]

    def find(self, prefix: str) -> str:
        """The full hash of the one artifact that starts with ``prefix``."""
        if not HASH.fullmatch(prefix):
            raise BadInput(f"{prefix!r} is no hash", "at least 4 hexadecimal digits")
        matches = [p.name for p in (self.folder / "artifacts").glob(f"{prefix}*")]
        if len(matches) != 1:
            raise BadInput(f"{len(matches)} artifacts start with {prefix!r}", "exactly one")
        return matches[0]

    # Decisions

    def decide(self, action: str, facts: dict[str, Any], author: str = "") -> dict[str, Any]:
        """Append an entry to the hash-chained log and return it. One writer at a time."""
        with self.database.write() as connection:
            entry = self.next_entry(connection, action, facts, author)
            number = entry["number"]
            write_bytes(self.decision_file(number), canonical(entry))
            connection.execute(
                decisions.insert().values(
                    number=number, hash=entry["hash"], entry=canonical(entry).decode()
                )
            )
        return entry

    def next_entry(
        self, connection: sa.Connection, action: str, facts: dict[str, Any], author: str
    ) -> dict[str, Any]:
        """The next entry of the chain; also indexes what a kill left in the folder only."""
        log = self.decisions()
        known = {row.number for row in connection.execute(sa.select(decisions.c.number))}
        for entry in log:
            if entry["number"] not in known:
                connection.execute(
                    decisions.insert().values(
                        number=entry["number"],
                        hash=entry["hash"],
                        entry=canonical(entry).decode(),
                    )
                )
        body = {
            "number": len(log) + 1,
            "before": log[-1]["hash"] if log else FIRST,
            "time": round(time.time(), 3),
            "author": author or os.environ.get("USER") or str(os.getuid()),
            "action": action,
            "facts": facts,
        }
        return {**body, "hash": hash_json(body)}

    def decision_file(self, number: int) -> Path:
        """Where an entry of the log stands."""
        return self.folder / "decisions" / f"{number:08d}.json"

    def decisions(self) -> list[dict[str, Any]]:
        """The whole log, checked: each entry's own hash and its link to the one before."""
        before, log = FIRST, []
        for number, path in enumerate(sorted((self.folder / "decisions").glob("*.json")), 1):
            try:
                entry = json.loads(path.read_bytes())
                body = {key: value for key, value in entry.items() if key != "hash"}
                whole = entry["hash"] == hash_json(body)
            except (ValueError, KeyError, AttributeError):
                whole, entry = False, {}
            if not whole or entry["before"] != before or entry["number"] != number:
                raise Corrupt(
                    f"entry {number} of the decision log does not fit the chain",
                    "a log that nobody has altered",
                    f"restore {path.name} from a backup; nothing after it can be trusted",
                )
            before = entry["hash"]
            log.append(entry)
        return log

    # States of the loop, small JSON values that change

    def state(self, name: str) -> dict[str, Any] | None:
        """A named state, or None."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(states.c.value).where(states.c.name == name)).first()
        return json.loads(row.value) if row else None

    def set_state(self, name: str, value: dict[str, Any]) -> None:
        """Replace a named state in one transaction, and keep a copy in the folder as its truth."""
        with self.database.write() as connection:
            connection.execute(states.delete().where(states.c.name == name))
            connection.execute(states.insert().values(name=name, value=json.dumps(value)))
            write_json(self.state_file(name), {"name": name, "value": value})

    def state_file(self, name: str) -> Path:
        """Where the copy of a state stands."""
        return self.folder / "states" / f"{hash_bytes(name.encode())[:24]}.json"

    # Upkeep

    def rebuild(self) -> None:
        """Make the index anew from the folders."""
        for result in self.all_results():
            for attempt in range(
                len(list((self.folder / "results" / result.stamp).glob("*.json")))
            ):
                again = self.read_result(result.stamp, attempt)
                if again is not None:
                    self.index(again)
        log = self.decisions()
        with self.database.write() as connection:
            connection.execute(decisions.delete())
            for entry in log:
                connection.execute(
                    decisions.insert().values(
                        number=entry["number"], hash=entry["hash"], entry=canonical(entry).decode()
                    )
                )
            for path in sorted((self.folder / "states").glob("*.json")):
                kept = json.loads(path.read_bytes())
                connection.execute(states.delete().where(states.c.name == kept["name"]))
                connection.execute(
                    states.insert().values(name=kept["name"], value=json.dumps(kept["value"]))
                )

    def new_run(self, recipe: str) -> tuple[str, Path]:
        """A fresh run's id (readable, sortable) and folder."""
        stem = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
        for attempt in range(100):
            name = stem if attempt == 0 else f"{stem}-{attempt}"
            folder = self.folder / "runs" / name
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return name, folder
        raise LmwrightError(f"over a hundred runs of {recipe} began in this second")

    def runs(self) -> list[str]:
        """The ids of all runs, oldest first."""
        folders = [p for p in (self.folder / "runs").iterdir() if (p / "run.json").exists()]
        return [p.name for p in sorted(folders, key=lambda p: (p / "run.json").stat().st_mtime_ns)]

    def scratch(self, stamp: str) -> Path:
        """The folder in which a stage of this stamp works; it survives a kill."""
        return self.folder / "work" / stamp

    def temporary(self) -> Path:
        """A fresh folder on the store's own disk, so that it can be renamed into place."""
        path = self.folder / "tmp" / uuid.uuid4().hex
        path.mkdir()
        return path

    def remove(self, contents: Iterable[str], stamps: Iterable[str]) -> int:
        """Remove artifacts and results (for ``gc``, which knows what is needed); bytes freed."""
        freed = 0
        for stamp in stamps:
            with self.database.write() as connection:
                connection.execute(results.delete().where(results.c.stamp == stamp))
                connection.execute(edges.delete().where(edges.c.stamp == stamp))
            shutil.rmtree(self.folder / "results" / stamp, ignore_errors=True)
        for content in contents:
            path = self.folder / "artifacts" / content
            freed += sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            doomed = self.temporary() / content
            path.rename(doomed)  # one step out of sight, so that no reader meets half a folder
            shutil.rmtree(doomed.parent)
        sweep(self.folder / "results")
        return freed

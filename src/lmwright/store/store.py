"""The store: artifacts under their content hash, results under their stamp, decisions in a chain.

artifacts/HASH/…            a folder, immutable under the hash of its content
results/STAMP/0.json        what a stage did: settings, inputs, outputs, facts (1.json, …: --again)
decisions/00000001.json     promotions, roll-backs, withdrawals; each holds its predecessor's hash
runs/ID/…                   the recipe as run, and its journal
work/STAMP/…                scratch and unfinished outputs of running stages
registry.db                 an index over all of it, rebuilt when it is missing

With a remote the folder is a cache: artifacts, results and decisions go there as they are
committed, and what is not here comes from there. Runs, scratch and the loop's states stay here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lmwright.core.bases import bases_of, missing_base
from lmwright.core.durable import (
    commit_folder,
    sweep,
    sync_folder,
    sync_tree,
    write_bytes,
    write_json,
)
from lmwright.core.errors import BadInput, Corrupt, LmwrightError
from lmwright.core.hashing import canonical, hash_bytes, hash_json, hash_tree, tree
from lmwright.store.database import (
    INDEXED,
    Database,
    decisions,
    edges,
    results,
    sqlite_url,
    states,
)
from lmwright.store.remote import Remote

FIRST = "0" * 64
HASH = re.compile(r"[0-9a-f]{4,64}")
MANIFEST = re.compile(r"[0-9a-f]{64}/[0-9]{1,6}\.json")


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
    """One store on a folder, with its index in SQLite or at ``database`` (a PostgreSQL address).

    ``remote`` is where it is shared, an address of fsspec such as ``s3://bucket/folder``.
    """

    def __init__(self, folder: Path, database: str | None = None, remote: str | None = None):
        self.folder = folder.absolute()
        if str(self.folder) != str(self.folder).encode("utf-8", "replace").decode():
            raise BadInput(
                f"the store {self.folder} has a path with bytes that are not UTF-8",
                "a path that every library can open",
                "choose another with --store or LMWRIGHT_STORE",
            )
        try:
            for name in ("artifacts", "results", "decisions", "runs", "work", "tmp"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"the store {self.folder} cannot be written: {error.strerror}",
                "a folder that this user may write",
                "choose another with --store or LMWRIGHT_STORE",
            ) from None
        self.remote = Remote(remote) if remote else None
        self.database = Database(database or sqlite_url(self.folder / "registry.db"))
        try:
            self.pull()
            if self.state(INDEXED) is None:
                self.rebuild()
        except LmwrightError:
            self.database.close()
            raise

    # Artifacts

    def artifact(self, content: str) -> Path:
        """The folder of an artifact, fetched if it is only at the remote, with what it stands on.

        Corrupt when it is gone, BadInput when a base of it is.
        """
        path = self.fetched(content)
        for base in bases_of(path):
            if not self.has_artifact(base):
                raise missing_base(content, base)
            self.artifact(base)
        return path

    def fetched(self, content: str) -> Path:
        """The folder of an artifact alone."""
        path = self.folder / "artifacts" / content
        if not path.is_dir() and not self.pull_artifact(content):
            raise Corrupt(
                f"artifact {content[:12]} is not in the store",
                "a folder that was committed",
                "run the recipe again: what is missing is made anew",
            )
        return path

    def has_artifact(self, content: str) -> bool:
        """Whether an artifact is here or at the remote."""
        if (self.folder / "artifacts" / content).is_dir():
            return True
        return self.remote is not None and self.remote.has(f"artifacts/{content}.json")

    def add_artifact(self, folder: Path) -> str:
        """Move a finished folder into the store and return its content hash.

        One that is there already stays, unless it is damaged: then this one takes its place.
        """
        content = hash_tree(tree(folder))
        target = self.folder / "artifacts" / content
        if target.is_dir() and not self.verify(content):
            sync_tree(folder)  # now, so that the place is empty for two renames only
            target.rename(self.temporary() / content)
            # A kill here leaves none: what is missing is made anew. ``gc`` removes the damaged one.
        commit_folder(folder, target)
        return content

    def verify(self, content: str) -> bool:
        """Whether an artifact, and all that it stands on, still has the content of its name."""
        if not self.has_artifact(content):
            return False
        folder = self.fetched(content)
        return hash_tree(tree(folder)) == content and all(map(self.verify, bases_of(folder)))

    # Results

    def result(self, stamp: str) -> Result | None:
        """The first result under a stamp whose outputs are all there, or None."""
        if self.remote is not None and self.read_result(stamp, 0) is None:
            self.pull_result(f"{stamp}/0.json")
        result = self.read_result(stamp, 0)
        if result is None or not all(map(self.has_artifact, result.outputs.values())):
            return None
        if not self.indexed(stamp, 0):
            self.index(result)  # a kill came between the manifest and the index
        self.push_result(result)  # or between the index and the remote
        return self.read_result(stamp, 0)

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
        return self.push_result(result)

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
            of = (edges.c.stamp == result.stamp) & (edges.c.attempt == result.attempt)
            connection.execute(edges.delete().where(of))
            for role, names in (("in", result.inputs), ("out", result.outputs)):
                for name, content in names.items():
                    connection.execute(
                        edges.insert().values(
                            stamp=result.stamp,
                            attempt=result.attempt,
                            role=role,
                            name=name,
                            artifact=content,
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
        """Every result in the store, each attempt of it, in the order of their stamps."""
        for folder in sorted((self.folder / "results").iterdir()):
            yield from self.attempts(folder.name)

    def attempts(self, stamp: str) -> list[Result]:
        """The results under a stamp, the first one first."""
        numbers = sorted(int(p.stem) for p in (self.folder / "results" / stamp).glob("*.json"))
        found = (self.read_result(stamp, number) for number in numbers)
        return [result for result in found if result is not None]

    def makers(self, content: str) -> list[Result]:
        """The results that gave an artifact."""
        return self.touching(content, "out")

    def users(self, content: str) -> list[Result]:
        """The results that read an artifact."""
        return self.touching(content, "in")

    def touching(self, content: str, role: str) -> list[Result]:
        """Results with an edge of ``role`` to an artifact."""
        query = sa.select(edges.c.stamp, edges.c.attempt).where(
            (edges.c.artifact == content) & (edges.c.role == role)
        )
        with self.database.read() as connection:
            places = sorted({(row.stamp, row.attempt) for row in connection.execute(query)})
        found = (self.read_result(stamp, attempt) for stamp, attempt in places)
        return [result for result in found if result is not None]

    def find(self, prefix: str) -> str:
        """The full hash of the one artifact that starts with ``prefix``."""
        cure = "lmwright runs lists the runs, lmwright show RUN what each made"
        if not HASH.fullmatch(prefix):
            raise BadInput(f"{prefix!r} is no hash", "at least 4 hexadecimal digits", cure)
        here = {p.name for p in (self.folder / "artifacts").glob(f"{prefix}*")}
        matches = sorted(here.union(self.remote.artifacts(prefix) if self.remote else ()))
        if len(matches) != 1:
            raise BadInput(f"{len(matches)} artifacts start with {prefix!r}", "exactly one", cure)
        return matches[0]

    # Decisions

    def decide(
        self,
        action: str,
        facts: dict[str, Any] | Callable[[], dict[str, Any]],
        author: str = "",
    ) -> dict[str, Any]:
        """Append an entry to the hash-chained log and return it. One writer at a time.

        ``facts`` that rest on the log are given as a function, which is called when nobody else
        can write any more; if it raises, nothing is logged.
        """
        with self.database.write() as connection:
            while True:
                self.share_decisions()
                found = facts() if callable(facts) else facts
                entry = self.next_entry(connection, action, found, author)
                number = entry["number"]
                path = self.decision_file(number)
                if self.remote is None:
                    break
                if self.remote.create(f"decisions/{path.name}", canonical(entry)):
                    break  # else another writer has taken this number meanwhile
            write_bytes(path, canonical(entry))
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
        return self.decision_path(f"{number:08d}.json")

    def decision_path(self, name: str) -> Path:
        """The file of that name in the log."""
        return self.folder / "decisions" / name

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

    def states(self, beginning: str) -> dict[str, dict[str, Any]]:
        """The states whose names begin so, by name."""
        query = sa.select(states).where(states.c.name.startswith(beginning, autoescape=True))
        with self.database.read() as connection:
            return {row.name: json.loads(row.value) for row in connection.execute(query)}

    def set_state(self, name: str, value: dict[str, Any]) -> None:
        """Replace a named state in one transaction, and keep a copy in the folder as its truth."""
        with self.database.write() as connection:
            connection.execute(states.delete().where(states.c.name == name))
            connection.execute(states.insert().values(name=name, value=json.dumps(value)))
            write_json(self.state_file(name), {"name": name, "value": value})

    def state_file(self, name: str) -> Path:
        """Where the copy of a state stands."""
        return self.folder / "states" / f"{hash_bytes(name.encode())[:24]}.json"

    # The remote

    def pull(self) -> None:
        """Take over the results and decisions that others have put at the remote."""
        if self.remote is None:
            return
        for name in self.remote.names("results"):
            if not (self.folder / "results" / name).exists():
                self.pull_result(name)
        with self.database.write():
            self.share_decisions()

    def pull_result(self, name: str) -> Result | None:
        """Fetch one manifest (``STAMP/ATTEMPT.json``), if it is there, and index it."""
        raw = self.remote.read(f"results/{name}") if self.remote else None
        if raw is None:
            return None
        try:
            result = Result(**json.loads(raw))
            named = f"{result.stamp}/{result.attempt}.json" == name
            whole = named and MANIFEST.fullmatch(name) is not None
        except (ValueError, TypeError):
            whole = False
        if not whole:
            raise Corrupt(f"result {name[:80]!r} at the remote is damaged", "a stage's manifest")
        write_bytes(self.folder / "results" / name, raw)
        self.index(result)
        return result

    def push_result(self, result: Result) -> Result:
        """Put a result at the remote, its artifacts first, its manifest last.

        Where another store came first with a different outcome, that one takes the place here
        too, and this one becomes a further attempt.
        """
        name = f"{result.stamp}/{result.attempt}.json"
        path = self.folder / "results" / name
        while self.remote is not None:
            raw = self.remote.read(f"results/{name}")
            if raw is None:
                for content in result.outputs.values():
                    self.remote.push_artifact(self.folder / "artifacts" / content, content)
                self.remote.create(f"results/{name}", path.read_bytes())
                continue  # to see whether it was this one that was kept
            if raw == path.read_bytes():
                break
            theirs = self.pull_result(name)
            if theirs is not None and theirs.outcome != result.outcome:
                return self.add_result(result)
            break
        return result

    def pull_artifact(self, content: str) -> bool:
        """Fetch an artifact from the remote into the cache; False when it is not there."""
        if self.remote is None or not re.fullmatch(r"[0-9a-f]{64}", content):
            return False
        folder = self.temporary()
        try:
            if not self.remote.pull_artifact(content, folder):
                return False
            commit_folder(folder, self.folder / "artifacts" / content)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def share_decisions(self) -> None:
        """Make the log here and at the remote the same; Corrupt when they have parted."""
        if self.remote is None:
            return
        here = sorted(path.name for path in (self.folder / "decisions").glob("*.json"))
        there = self.remote.names("decisions")
        common = min(len(here), len(there))
        if common:
            last = here[common - 1]
            if self.remote.read(f"decisions/{last}") != self.decision_path(last).read_bytes():
                raise Corrupt(
                    f"the decision logs here and at {self.remote.url} are two",
                    "one log",
                    "use another folder or another remote",
                )
        for name in there[common:]:
            write_bytes(self.decision_path(name), self.remote.read(f"decisions/{name}") or b"")
        for name in here[common:]:
            self.remote.create(f"decisions/{name}", self.decision_path(name).read_bytes())

    # Upkeep

    def rebuild(self) -> None:
        """Make the index anew from the folders; safe while others write, and to repeat."""
        for result in self.all_results():
            self.index(result)
        with self.database.write() as connection:
            connection.execute(decisions.delete())
            for entry in self.decisions():
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
            connection.execute(states.delete().where(states.c.name == INDEXED))
            connection.execute(states.insert().values(name=INDEXED, value="true"))

    def new_run(self, recipe: str) -> tuple[str, Path]:
        """A fresh run's id (readable, sortable) and folder."""
        number = 1 + max(map(self.run_number, (self.folder / "runs").iterdir()), default=0)
        stem = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
        for attempt in range(100):
            name = stem if attempt == 0 else f"{stem}-{attempt}"
            folder = self.folder / "runs" / name
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            write_bytes(folder / "number", str(number).encode())
            return name, folder
        raise LmwrightError(f"over a hundred runs of {recipe} began in this second")

    def runs(self) -> list[str]:
        """The ids of all runs, oldest first, whatever the clock said then."""
        folders = [p for p in (self.folder / "runs").iterdir() if (p / "run.json").exists()]
        return [p.name for p in sorted(folders, key=lambda p: (self.run_number(p), p.name))]

    def run_number(self, folder: Path) -> int:
        """A run's place in the order of runs; those at the same time may share one."""
        try:
            return int((folder / "number").read_text())
        except (OSError, ValueError):
            return 0

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

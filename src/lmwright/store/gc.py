"""Garbage collection: removes what no alias, pin, recent run or running work needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import sqlalchemy as sa

from lmwright.store.database import leases
from lmwright.store.lease import gone
from lmwright.store.run import read_run
from lmwright.store.store import Store
from lmwright.store.versions import MOVES, ancestors, read_version


@dataclass(frozen=True)
class Swept:
    """What was (or would be) removed."""

    artifacts: list[str]
    results: list[str]
    work: list[str]
    freed: int


def collect(store: Store, keep_runs: int = 3, dry: bool = False) -> Swept:
    """Remove artifacts, results and scratch that nothing needs.

    Needed are: every version that an alias ever named and all that it was made from, what the
    last ``keep_runs`` runs of each recipe hold, and whatever work is under a live lease.
    """
    needed_stamps, needed = marks(store, keep_runs)
    with store.database.read() as connection:
        live = {row.stamp for row in connection.execute(sa.select(leases)) if not gone(row.owner)}
    have = [p.name for p in sorted((store.folder / "artifacts").iterdir()) if p.is_dir()]
    doomed = [] if live else [content for content in have if content not in needed]
    stamps = [p.name for p in sorted((store.folder / "results").iterdir()) if p.is_dir()]
    old = [stamp for stamp in stamps if stamp not in needed_stamps and not live]
    work = [p for p in sorted((store.folder / "work").iterdir()) if p.name not in live]
    size = sum(
        p.stat().st_size
        for folder in [store.folder / "artifacts" / c for c in doomed] + work
        for p in folder.rglob("*")
        if p.is_file()
    )
    if not dry:
        store.remove(doomed, old)
        for path in [*work, *(() if live else (store.folder / "tmp").iterdir())]:
            shutil.rmtree(path, ignore_errors=True)
    return Swept(doomed, old, [p.name for p in work], size)


def marks(store: Store, keep_runs: int) -> tuple[set[str], set[str]]:
    """The stamps and artifacts that are needed."""
    stamps: set[str] = set()
    roots: set[str] = set()
    for entry in store.decisions():
        if entry["action"] in MOVES:
            roots.add(entry["facts"]["version"])
    by_recipe: dict[str, list[dict]] = {}
    for name in store.runs():
        head = read_run(store, name)
        by_recipe.setdefault(head["recipe"], []).append(head)
    for heads in by_recipe.values():
        for head in heads[-keep_runs:]:
            stamps.update(head.get("results", {}).values())
    for stamp in sorted(stamps):
        result = store.read_result(stamp, 0)
        if result is not None:
            roots.update(result.outputs.values())
    needed = set(roots)
    for content in roots:
        folder = store.folder / "artifacts" / content
        if (folder / "version.json").exists():
            needed.update(read_version(store, content).get("artifacts", {}).values())
        for result in ancestors(store, content):
            stamps.add(result.stamp)
            needed.update(result.outputs.values())
    return stamps, needed

"""Garbage collection: removes what no alias, recent run or running work needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from lmwright.core.errors import BadInput
from lmwright.store.lease import SWEEP, lease, working
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

    Needed are: every version that an alias ever named and all that it was made from, and what
    the last ``keep_runs`` runs of each recipe hold. While any run is working nothing is removed,
    and no run begins before this has ended.
    """
    if keep_runs < 0:
        raise BadInput(f"keep_runs is {keep_runs}", "0 or more")
    with lease(store.database, SWEEP):
        if working(store.database):
            return Swept([], [], [], 0)
        needed_stamps, needed = marks(store, keep_runs)
        doomed = [name for name in folders(store, "artifacts") if name not in needed]
        old = [name for name in folders(store, "results") if name not in needed_stamps]
        work = folders(store, "work")
        size = sum(
            path.stat().st_size
            for folder in [f"artifacts/{name}" for name in doomed] + [f"work/{n}" for n in work]
            for path in (store.folder / folder).rglob("*")
            if path.is_file()
        )
        if not dry:
            store.remove(doomed, old)
            for path in [*(store.folder / "work").iterdir(), *(store.folder / "tmp").iterdir()]:
                shutil.rmtree(path, ignore_errors=True)
    return Swept(doomed, old, work, size)


def folders(store: Store, kind: str) -> list[str]:
    """The names of the folders of one kind, sorted."""
    return sorted(path.name for path in (store.folder / kind).iterdir() if path.is_dir())


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
        for head in heads[max(0, len(heads) - keep_runs) :]:
            stamps.update(head.get("results", {}).values())
    for stamp in sorted(stamps):
        for result in store.attempts(stamp):  # a rerun finds the first, whichever this one made
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

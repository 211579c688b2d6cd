"""Runs the toy recipe in a process of its own and prints what it found and did, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tests.store.breaking  # noqa: F401  (registers file systems that break)
from lmwright.core.journal import read_journal
from lmwright.core.recipe import make_recipe
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from tests.store.toy import resolve


def main(folder: str, database: str, remote: str, count: str) -> None:
    """Run, decide once, and say how many stages were worked on here."""
    raw = {"name": "toy", "stages": {"draw": {"count": int(count)}, "total": None}}
    store = Store(Path(folder), database or None, remote or None)
    run = run_recipe(make_recipe(raw, "toy.yaml", resolve, ()), store)
    entry = store.decide("note", {"total": run.artifacts["total"]}, "a test")
    events = [event["event"] for event in read_journal(run.folder / "journal.jsonl")]
    store.database.close()
    told = {"artifacts": run.artifacts, "worked": events.count("stage ended")}
    print(json.dumps({**told, "decision": entry["number"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Retention: what is kept of people's texts beyond the artifacts, and when it goes.

The traffic log holds answers, and ``feedback/`` in the store the labelled texts that were written
out for a retraining. What a stage made of them are artifacts like others, which ``gc`` removes
when no version needs them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from lmwright.serve.traffic import SETTINGS, Traffic
from lmwright.store.lease import SWEEP, lease, working
from lmwright.store.store import Store

SETTLED = 60.0
"""Seconds after which a file of feedback that no loop names is not about to be named."""


@dataclass(frozen=True)
class Forgotten:
    """What was (or would be) removed: answers past their retention, and files of feedback."""

    answers: int
    files: list[str]


def forget_texts(store: Store, dry: bool = False) -> Forgotten:
    """Remove what may no longer, or need no longer, be kept.

    Answers go when they are older than the retention that their log was last opened with. A file
    of feedback goes when no training that is to be resumed reads it; while any run is working
    all of them stay.
    """
    answers = 0
    for path in sorted(store.folder.glob(f"traffic/*/{SETTINGS}")):
        log = Traffic.again(path.parent)
        try:
            answers += log.expired() if dry else log.forget()
        finally:
            log.close()
    with lease(store.database, SWEEP):
        if working(store.database):
            return Forgotten(answers, [])
        kept = in_training(store)
        before = time.time() - SETTLED
        files = [
            path
            for path in sorted(store.folder.glob("feedback/*.jsonl"))
            if path.name not in kept and path.stat().st_mtime < before
        ]
        if not dry:
            for path in files:
                path.unlink()
    return Forgotten(answers, [path.name for path in files])


def in_training(store: Store) -> set[str]:
    """The names of the files that the recipes of trainings under way read."""
    names: set[str] = set()
    for state in store.states("loop ").values():
        if state["at"] != "training":
            continue
        recipe = json.loads((store.folder / state["recipe"]).read_bytes())
        for stage in recipe["stages"].values():
            for source in stage.get("sources", ()):
                names.add(source["path"].rpartition("/")[2])
    return names

"""Runs the toy recipe on a store, decides and remembers: what a kill test kills."""

from __future__ import annotations

import sys
from pathlib import Path

from lmwright.core.recipe import make_recipe
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from lmwright.store.versions import current, move
from tests.store.toy import resolve


def main(folder: str) -> None:
    """Run, then put the result behind an alias unless it is there already."""
    raw = {"name": "toy", "stages": {"draw": {"count": 3}, "total": None}}
    store = Store(Path(folder))
    run = run_recipe(make_recipe(raw, "toy.yaml", resolve, ()), store)
    total = run.artifacts["total"]
    now = current(store, "toy@production")
    if now is None or now.hash != total:
        move(store, "toy@production", total, {"kind": "toy"}, "a test")
    store.set_state("loop toy", {"at": "observed"})


if __name__ == "__main__":
    main(sys.argv[1])

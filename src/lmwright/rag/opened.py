"""Finding the index that a name stands for in a store."""

from __future__ import annotations

import re

from lmwright.core.errors import BadInput
from lmwright.rag.searcher import Searcher, is_index
from lmwright.store.run import read_run, results_of
from lmwright.store.store import Store

PREFIX = re.compile(r"[0-9a-f]{4,64}")


def open_searcher(store: Store, what: str) -> Searcher:
    """The index of an artifact's hash, or its beginning, or the last one that runs of a recipe of
    this name made; BadInput where there is none."""
    for name in reversed(store.runs()):
        head = read_run(store, name)
        if head["recipe"] == what or name == what:
            for result in results_of(store, head).values():
                for content in result.outputs.values():
                    if store.has_artifact(content) and is_index(store.artifact(content)):
                        return Searcher.load(store.artifact(content))
    if PREFIX.fullmatch(what):
        return Searcher.load(store.artifact(store.find(what)))
    raise BadInput(
        f"there is no index {what!r}",
        "a recipe that has run its stage index, a run, or an artifact's hash",
        "add the stage index to the recipe and run it",
    )

"""Opening a store, with what the environment adds."""

from __future__ import annotations

import os
from pathlib import Path

from lmwright.core.errors import BadInput
from lmwright.store.store import Store

FOLDER = Path("lmwright-store")
"""The store of a folder in which nobody named another."""


def default_folder() -> Path:
    """The store's folder where none is given: ``$LMWRIGHT_STORE``, or the present folder's."""
    return Path(os.environ.get("LMWRIGHT_STORE") or FOLDER)


def open_store(folder: Path) -> Store:
    """The store on a folder, with what the environment adds.

    LMWRIGHT_DATABASE is where its index is, else SQLite beside it; LMWRIGHT_REMOTE is the object
    store with which it shares artifacts, results and decisions.
    """
    database, remote = (os.environ.get(f"LMWRIGHT_{name}") for name in ("DATABASE", "REMOTE"))
    return Store(folder, database or None, remote or None)


def existing_store(folder: Path) -> Store:
    """The store for what only looks: BadInput where there is none, and none is made.

    With a remote the folder is a cache, which may be empty.
    """
    if not (folder / "artifacts").is_dir() and not os.environ.get("LMWRIGHT_REMOTE"):
        raise BadInput(
            f"there is no store at {folder}",
            "the folder of a store",
            "run a recipe first, or name another with --store",
        )
    return open_store(folder)

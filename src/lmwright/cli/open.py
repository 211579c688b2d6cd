"""What every verb needs first: the store, and a recipe read with the tables."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lmwright.core.errors import BadInput
from lmwright.core.recipe import Recipe, read_recipe
from lmwright.data.sources import READERS
from lmwright.old_format import recipe_of
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="LMWRIGHT_STORE", help="The store's folder.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", help="STAGE.FIELD=VALUE, laid over the recipe.")
]
STORE = Path("lmwright-store")


def open_store(folder: Path) -> Store:
    """The store on a folder, with what the environment adds.

    LMWRIGHT_DATABASE is where its index is, else SQLite beside it; LMWRIGHT_REMOTE is the object
    store with which it shares artifacts, results and decisions.
    """
    database, remote = (os.environ.get(f"LMWRIGHT_{name}") for name in ("DATABASE", "REMOTE"))
    return Store(folder, database or None, remote or None)


def existing_store(folder: Path) -> Store:
    """The store for verbs that only look: BadInput where there is none, and none is made.

    With a remote the folder is a cache, which may be empty.
    """
    if not (folder / "artifacts").is_dir() and not os.environ.get("LMWRIGHT_REMOTE"):
        raise BadInput(
            f"there is no store at {folder}",
            "the folder of a store",
            "run a recipe first, or name another with --store",
        )
    return open_store(folder)


@contextmanager
def stopped_in_words() -> Iterator[None]:
    """While a run works: SIGTERM and SIGINT end it as interrupted, with the shell's exit code."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit:
        print("lmwright: interrupted; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_recipe(path: Path, sets: list[str]) -> Recipe:
    """Read a recipe file with ``--set`` overrides."""
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind in READERS and kind != ".json":
        raise BadInput(f"{path} is a table", "a recipe file", f"for a table: lmwright init {path}")
    return read_recipe(path, resolve, SECTIONS, sets, recipe_of)

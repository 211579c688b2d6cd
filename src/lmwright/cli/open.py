"""What every verb needs first: the store, and a recipe read with the tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lmwright.core.recipe import Recipe, read_recipe
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
    """The store on a folder; its index is where LMWRIGHT_DATABASE says, or SQLite beside it."""
    return Store(folder, os.environ.get("LMWRIGHT_DATABASE") or None)


def open_recipe(path: Path, sets: list[str]) -> Recipe:
    """Read a recipe file with ``--set`` overrides."""
    return read_recipe(path, resolve, SECTIONS, sets)

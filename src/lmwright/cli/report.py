"""``lmwright report`` and ``lmwright card``: pages made from what runs left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.plan.recipe import reported
from lmwright.report.cards import write_cards
from lmwright.report.page import write_report
from lmwright.store.open import existing_store


def report(
    what: Annotated[str, typer.Argument(help="A recipe file, its name, or NAME@ALIAS.")],
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("report.html"),
    store: StoreOption = STORE,
) -> None:
    """Write a recipe's report: one self-contained page."""
    opened = existing_store(store)
    written = write_report(opened, reported(what), out)
    print(f"report {written.absolute()}")


def card(
    what: Annotated[str, typer.Argument(help="An alias or the hash of a version.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("cards"),
    store: StoreOption = STORE,
) -> None:
    """Write a version's model card and data card, each as a page and as JSON."""
    for path in write_cards(existing_store(store), what, out):
        print(path)

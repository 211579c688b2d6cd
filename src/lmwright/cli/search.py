"""``lmwright search``: the nearest texts of an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

from lmwright.cli.look import say
from lmwright.cli.open import STORE, JsonOption, StoreOption
from lmwright.core.errors import BadInput
from lmwright.rag.opened import open_searcher
from lmwright.rag.searcher import By, Found
from lmwright.store.open import existing_store

SHOWN = 240
"""Characters of a text that are printed for people."""


def search(
    what: Annotated[
        str, typer.Argument(help="A recipe with a stage index, a run, or an index's hash.")
    ],
    query: Annotated[str, typer.Argument(help="What is looked for.")],
    most: Annotated[int, typer.Option(help="At most so many texts.", min=1)] = 5,
    by: Annotated[
        str, typer.Option(help="words, vectors or both; by default both where there are vectors.")
    ] = "",
    where: Annotated[
        list[str], typer.Option(help="COLUMN=VALUE that a text must have. May be repeated.")
    ] = [],  # noqa: B006
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Print the texts of an index that are nearest to a query, the nearest first."""
    kinds: dict[str, By | None] = {"": None, "words": "words", "vectors": "vectors", "both": "both"}
    if by not in kinds:
        raise BadInput(f"--by is {by!r}", "words, vectors or both")
    wanted: dict[str, list[str | float]] = {}
    for each in where:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise BadInput(f"--where is {each!r}", "COLUMN=VALUE, as in source=faq")
        wanted.setdefault(name, []).append(value)
        with suppress(ValueError):  # a column of numbers holds them as such
            wanted[name].append(float(value))
    searcher = open_searcher(existing_store(store), what)
    [found] = searcher.search([query], most, kinds[by], wanted)
    say([asdict(each) for each in found], as_json, lines(found))


def lines(found: list[Found]) -> Iterator[str]:
    """Each text with its score and where it is from."""
    if not found:
        yield "nothing was found"
    for each in found:
        text = " ".join(each.text.split())
        cut = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
        named = ", ".join(f"{name} {value}" for name, value in each.columns.items())
        yield f"{each.score:7.4f}  {each.id[:12]}  {named}\n         {cut}"

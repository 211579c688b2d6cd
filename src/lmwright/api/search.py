"""Indexes from Python."""

from __future__ import annotations

from os import PathLike

from lmwright.api.recipes import folder_of
from lmwright.rag.opened import open_searcher
from lmwright.rag.searcher import Searcher
from lmwright.store.open import existing_store


def open_index(what: str, store: str | PathLike[str] | None = None) -> Searcher:
    """The index that a recipe's stage ``index`` made, by the recipe's name, a run or its hash.

    ``open_index("faq").search(["how do I pay?"], most=3)`` gives a list of found texts a query.
    """
    return open_searcher(existing_store(folder_of(store)), what)

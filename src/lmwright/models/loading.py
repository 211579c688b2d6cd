"""Language models of this machine by their address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmwright.models.files.published import family_modules, is_gguf, located, read_published
from lmwright.models.foreign import foreign_model, is_foreign
from lmwright.models.text_model import TextModel, language_model


def load_text_model(address: str, report: Callable[[str], None]) -> TextModel[Any]:
    """The language model at an address, of our core or run by transformers.

    ``report`` is told what a user should know of how it runs.
    """
    path = located(address)
    if not is_gguf(path) and is_foreign(path):
        return foreign_model(path, report)
    published = read_published(address)
    if left := published.described.left:
        report(f"not read: {left}")
    return language_model(published)


def language_modules(address: str) -> tuple[str, ...]:
    """The modules of the family of the model at an address; none where transformers runs it."""
    path = located(address, weights=False)
    if not is_gguf(path) and is_foreign(path):
        return ()
    return family_modules(address)

"""Language models of this machine by their address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmwright.assets import is_asset
from lmwright.models.files.hub import is_hub
from lmwright.models.files.published import family_modules, is_gguf, located, read_published
from lmwright.models.foreign import foreign_model, is_foreign
from lmwright.models.text_model import TextModel, language_model
from lmwright.store.versions import ALIAS
from lmwright.text.generation import is_hosted


def is_model_address(address: str) -> bool:
    """Whether an address is that of a model, and no alias and no hash of a version."""
    if is_hub(address):
        return True
    if ALIAS.fullmatch(address):
        return False
    if is_asset(address) or is_hosted(address) or Path(address).exists():
        return True
    return "@" not in address and ("/" in address or address.lower().endswith(".gguf"))


def runs_elsewhere(address: str) -> bool:
    """Whether the model at an address is run by transformers, and not by our core."""
    path = located(address, weights=False)
    return not is_gguf(path) and is_foreign(path)


def load_text_model(address: str, report: Callable[[str], None]) -> TextModel[Any]:
    """The language model at an address, of our core or run by transformers.

    ``report`` is told what a user should know of how it runs.
    """
    if runs_elsewhere(address):
        return foreign_model(located(address), report)
    published = read_published(address)
    if left := published.described.left:
        report(f"not read: {left}")
    return language_model(published)


def language_modules(address: str) -> tuple[str, ...]:
    """The modules of the family of the model at an address; none where transformers runs it."""
    return () if runs_elsewhere(address) else family_modules(address)

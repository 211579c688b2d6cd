"""Whatever writes, by its address: a language model of this machine, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from lmwright.core.errors import BadInput
from lmwright.models.decode import Decoding
from lmwright.models.files.published import is_gguf, located, read_published
from lmwright.models.foreign import foreign_model, is_foreign
from lmwright.models.hosted import hosted, is_hosted
from lmwright.models.language import LanguageModel, language_model


class Author(Protocol):
    """A model that writes. ``how`` says how tokens are chosen; what ends an answer is its own."""

    def complete(self, text: str, how: Decoding, seed: int = 0) -> Iterator[str]:
        """What follows a text, as it is made."""

    def reply(
        self, messages: Sequence[Mapping[str, Any]], how: Decoding, seed: int = 0
    ) -> Iterator[str]:
        """The answer to a conversation, as it is made."""


def author_at(address: str, key_from: str, say: Callable[[str], None]) -> Author:
    """The model at an address; ``key_from`` names the variable with a hosted one's key.

    ``say`` is told what a user should know of how it runs.
    """
    if is_hosted(address):
        return hosted(address, key_from)
    if key_from:
        raise BadInput("a key for a model of this machine", "a hosted model", "leave it out")
    return language_model_at(address, say)


def language_model_at(address: str, say: Callable[[str], None]) -> LanguageModel[Any]:
    """The language model of this machine at an address: of our core, or run by transformers."""
    path = located(address)
    if not is_gguf(path) and is_foreign(path):
        return foreign_model(path, say)
    published = read_published(address)
    if left := published.described.left:
        say(f"not read: {left}")
    return language_model(published)

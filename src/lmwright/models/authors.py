"""Whatever writes, by its address: a language model of this machine, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from lmwright.core.errors import BadInput
from lmwright.models.decode import Decoding
from lmwright.models.files.published import read_published
from lmwright.models.hosted import hosted, is_hosted
from lmwright.models.language import language_model


class Author(Protocol):
    """A model that writes. ``how`` says how tokens are chosen; what ends an answer is its own."""

    def complete(self, text: str, how: Decoding, seed: int = 0) -> Iterator[str]:
        """What follows a text, as it is made."""

    def reply(
        self, messages: Sequence[Mapping[str, Any]], how: Decoding, seed: int = 0
    ) -> Iterator[str]:
        """The answer to a conversation, as it is made."""


def author_at(address: str, key_from: str = "") -> Author:
    """The model at an address; ``key_from`` names the variable with a hosted one's key."""
    if is_hosted(address):
        return hosted(address, key_from)
    if key_from:
        raise BadInput("a key for a model of this machine", "a hosted model", "leave it out")
    return language_model(read_published(address))

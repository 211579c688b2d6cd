"""Rows of a ``prompt`` and its ``completion``, each a text or a list of messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmwright.core.stage import Settings
from lmwright.data.shape import list_in, said, text_in


@dataclass(frozen=True, kw_only=True)
class PromptCompletion(Settings):
    """A prompt and what is to follow it, as a conversation; texts are the user's and the
    assistant's.

    ``prompt`` and ``completion`` are keys.
    """

    prompt: str = "prompt"
    completion: str = "completion"

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True for a row with both."""
        return self.prompt in row and self.completion in row

    def read(self, row: Mapping[str, Any]) -> list[Any]:
        """The messages of the prompt, then those of the completion."""
        return [*part(row, self.prompt, "user"), *part(row, self.completion, "assistant")]


def part(row: Mapping[str, Any], name: str, role: str) -> list[Any]:
    """The messages under a key: one, of that role, where a text stands there."""
    if isinstance(row.get(name), list | tuple):
        return list_in(row, name)
    return [said(role, text_in(row, name, needed=True))]

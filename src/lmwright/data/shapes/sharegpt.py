"""ShareGPT's rows: ``conversations`` of ``from`` and ``value``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmwright.core.stage import Settings
from lmwright.data.shape import conversation

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""Who speaks in published files -> our roles. Calls of functions and what they gave have none."""


@dataclass(frozen=True, kw_only=True)
class ShareGPT(Settings):
    """A conversation as people shared theirs.

    ``messages``  the key with the messages.
    ``role``      the key of a message that says who speaks, ``content`` that with the text.
    ``roles``     who speaks in the file -> ``system``, ``user`` or ``assistant``.
    ``system``    the key of a row with a system message.
    """

    messages: str = "conversations"
    role: str = "from"
    content: str = "value"
    roles: dict[str, str] = field(default_factory=lambda: {**ROLES})
    system: str = "system"

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True for a row with the key of the messages."""
        return self.messages in row

    def read(self, row: Mapping[str, Any]) -> list[Any]:
        """The messages in our names."""
        return conversation(row, self.messages, self.role, self.content, self.roles, self.system)

"""Chat rows (``messages`` of ``role`` and ``content``), also under other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmwright.core.stage import Settings
from lmwright.data.shape import conversation


@dataclass(frozen=True, kw_only=True)
class ChatRows(Settings):
    """A conversation as most chat services have it; what is called otherwise is named here.

    ``messages``  the key with the messages.
    ``role``      the key of a message that says who speaks, ``content`` that with the text.
    ``roles``     who speaks in the file -> ``system``, ``user`` or ``assistant``.
    ``system``    the key of a row with a system message.
    """

    messages: str = "messages"
    role: str = "role"
    content: str = "content"
    roles: dict[str, str] = field(default_factory=lambda: {"developer": "system"})
    system: str = "system"

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True for a row with the key of the messages."""
        return self.messages in row

    def read(self, row: Mapping[str, Any]) -> list[Any]:
        """The messages in our names."""
        return conversation(row, self.messages, self.role, self.content, self.roles, self.system)

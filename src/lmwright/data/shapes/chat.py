"""Chat rows (``messages`` of ``role`` and ``content``), also under other names."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmwright.data.shape import KeyedMessages


@dataclass(frozen=True, kw_only=True)
class ChatRows(KeyedMessages):
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

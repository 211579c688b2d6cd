"""ShareGPT's rows: ``conversations`` of ``from`` and ``value``."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmwright.data.shape import KeyedMessages

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
class ShareGPT(KeyedMessages):
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

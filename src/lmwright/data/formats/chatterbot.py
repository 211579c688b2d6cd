"""Conversations in YAML, as the ChatterBot corpora have them, as rows of ``messages``.

``categories: [name]`` and ``conversations: [[text, text]]``: texts of two speakers in turns, the
user's first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.yaml12 import parse_yaml
from lmwright.data.formats.opener import LINE_LIMIT, open_text, read_all
from lmwright.data.formats.record import Fault, Record, Table, need_columns

COLUMNS = ("messages", "category")
ROLES = ("user", "assistant")


def read_chatterbot(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """A record a conversation: its ``messages``, and the file's ``category``."""
    with open_text(table) as lines:
        text = read_all(lines, table, LINE_LIMIT)
    if len(text) > LINE_LIMIT:
        raise BadInput(f"{table.about} is longer than 8 MB", "a shorter file", "cut it in several")
    value = parse_yaml(text, table.about)
    found = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise BadInput(f"{table.about} is YAML without conversations", "a list of conversations")
    need_columns(table, [*COLUMNS], columns)
    category = ", ".join(map(str, value.get("categories") or ()))
    for number, conversation in enumerate(found, 1):
        origin = f"{table.name}:{number}"
        if not isinstance(conversation, list) or not all(isinstance(e, str) for e in conversation):
            yield Fault(origin, "wrong type", f"{conversation!r}, not a list of texts"[:200])
            continue
        record: dict[str, Any] = {"messages": messages_of(conversation), "category": category}
        yield origin, {name: record[name] for name in columns or COLUMNS}


def messages_of(texts: list[str]) -> list[dict[str, str]]:
    """Texts as the messages of a user and an assistant in turns."""
    return [{"role": ROLES[place % 2], "content": text} for place, text in enumerate(texts)]

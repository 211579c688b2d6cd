"""Shapes in which conversations are published, and the one that a file has, by its first rows.

A shape makes the ``messages`` of a whole conversation of a row. Rows that have ``messages`` of
``role`` and ``content`` need none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from lmwright.core.columns import Unfit
from lmwright.core.settings import Choice, read_choice
from lmwright.core.stage import Settings
from lmwright.data.formats.record import Fault, Record
from lmwright.tables import SHAPES, resolve

COLUMN = "messages"
LOOKED_AT = 20
"""Rows by which the shape of a file is told."""


class Shape(Protocol):
    """A shape: whether a row has it, and the conversation in one that has."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True for a row with the keys of this shape."""

    def read(self, row: Mapping[str, Any]) -> list[Any]:
        """The messages, with ``role`` and ``content``; Unfit for a row that lacks some."""


@dataclass(frozen=True, kw_only=True)
class KeyedMessages(Settings):
    """A row with its messages under a key, each a mapping with who speaks and a text.

    ``messages``  the key with the messages.
    ``role``      the key of a message that says who speaks, ``content`` that with the text.
    ``roles``     who speaks in the file -> ``system``, ``user`` or ``assistant``.
    ``system``    the key of a row with a system message.
    """

    messages: str
    role: str
    content: str
    roles: dict[str, str]
    system: str = "system"

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True for a row with the key of the messages."""
        return self.messages in row

    def read(self, row: Mapping[str, Any]) -> list[Any]:
        """The messages in our names."""
        return conversation(row, self.messages, self.role, self.content, self.roles, self.system)


def shape_of(choice: Choice, where: str) -> Shape:
    """The shape that a setting names."""
    found: Shape = read_choice("shapes", choice, where, resolve)
    return found


def fitting_shape(records: Iterable[Record | Fault]) -> str:
    """The name of the first shape that the first row in any shape has; "" where rows have messages,
    or no shape that is known."""
    for found in islice(records, LOOKED_AT):
        if isinstance(found, Fault):
            continue
        if COLUMN in found[1]:
            return ""
        for name in SHAPES:
            if shape_of(name, "shape").fits(found[1]):
                return name
    return ""


def shaped(shape: Shape, found: Record | Fault, columns: Iterable[str]) -> Record | Fault:
    """The columns of a row of this shape, its messages among them, or why it has none."""
    if isinstance(found, Fault):
        return found
    origin, row = found
    try:
        row = {**row, COLUMN: shape.read(row)}
    except Unfit as unfit:
        return Fault(origin, unfit.reason, unfit.detail)
    for column in columns:
        if column not in row:
            return Fault(origin, "missing key", f"{column!r}; it has {sorted(row)[:10]}")
    return origin, {column: row[column] for column in columns}


def said(role: str, content: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content}


def text_in(row: Mapping[str, Any], name: str, needed: bool = False) -> str:
    """The text under a key; Unfit where it is none, or where it is needed and empty."""
    value = row.get(name)
    if value is None and not needed:
        return ""
    if value is None or (needed and isinstance(value, str) and not value.strip()):
        raise Unfit(f"no {name}", "null" if value is None else "empty")
    if not isinstance(value, str):
        raise Unfit("wrong type", f"{name} is {type(value).__name__}, not text")
    return value


def list_in(row: Mapping[str, Any], name: str) -> list[Any]:
    """The list under a key, also as JSON in a text; Unfit where there is none."""
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unfit("wrong type", f"{name} is a text that holds no JSON list") from None
    if value is None or value == "":
        raise Unfit(f"no {name}", "null or empty")
    if not isinstance(value, list | tuple):
        raise Unfit("wrong type", f"{name} is {type(value).__name__}, not a list")
    return [*value]


def conversation(
    row: Mapping[str, Any],
    name: str,
    role: str,
    content: str,
    roles: Mapping[str, str],
    system: str,
) -> list[Any]:
    """The messages under the key ``name``, whose speaker is told by ``role`` and text by
    ``content``.

    ``roles`` are those of the file -> ours; others stay, and are refused where they are unknown.
    A text under ``system`` stands first, unless the messages begin with one of the system's.
    Tools that the row describes are refused: no message of them is learnt from.
    """
    if row.get("tools") not in (None, "", [], "[]"):
        raise Unfit("tools", "the row describes tools, which no model is taught here")
    found: list[Any] = []
    for place, each in enumerate(list_in(row, name)):
        if not isinstance(each, Mapping) or not {role, content} <= set(each):
            raise Unfit("wrong type", f"message {place} has no {role} and {content}")
        speaker = each[role]
        rest = {key: value for key, value in each.items() if key not in (role, content)}
        known = roles.get(speaker, speaker) if isinstance(speaker, str) else speaker
        found.append({**rest, **said(known, each[content])})
    if (text := text_in(row, system)).strip() and not (found and found[0]["role"] == "system"):
        found.insert(0, said("system", text))
    return found

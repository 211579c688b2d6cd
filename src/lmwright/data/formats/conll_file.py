"""CoNLL files: a token and its tags a line, an empty line after each sentence.

The last column is the entity tag (BIO or the older IOB of Tjong Kim Sang and De Meulder 2003).
A sentence is one record: ``text``, its tokens with single spaces; ``spans`` of characters;
``document``, the number of the ``-DOCSTART-`` line above it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lmwright.data.formats.opener import bounded_lines, open_text
from lmwright.data.formats.record import Fault, Record, Table, need_columns

TAG = re.compile(r"O|[BIES]-\S+")
SEPARATORS = re.compile(r"[ \t]+")
START = "-DOCSTART-"
COLUMNS = ("text", "spans", "document")
LOOKED_AT = 30
"""Lines by which the format is told."""


def looks_like_conll(text: str) -> bool:
    """True if the first lines have two columns at least, the last of them entity tags."""
    lines = [columns_of(line) for line in text.split("\n")[:LOOKED_AT]]
    filled = [parts for parts in lines[:-1] if parts]  # the last one may be cut
    return len(filled) > 1 and all(
        len(parts) > 1 and TAG.fullmatch(parts[-1]) is not None for parts in filled
    )


def read_conll(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a file; those with a line of too few columns or without a tag are faults."""
    need_columns(table, list(COLUMNS), columns)
    with open_text(table) as lines:
        document, number = 0, 0
        for sentence in sentences(bounded_lines(lines, table)):
            if sentence[0][0] == START:
                document += 1
                sentence = sentence[1:]
            if not sentence:
                continue
            number += 1
            origin = f"{table.name}:{number}"
            wrong = [line for line in sentence if len(line) < 2 or not TAG.fullmatch(line[-1])]
            if wrong:
                yield Fault(origin, "no entity tag", " ".join(wrong[0])[:80])
                continue
            words = [line[0] for line in sentence]
            record = {
                "text": " ".join(words),
                "spans": spans_of(words, [line[-1] for line in sentence]),
                "document": f"{table.name}:{document}",
            }
            yield origin, {name: record[name] for name in columns or COLUMNS}


def sentences(lines: Iterator[str]) -> Iterator[list[list[str]]]:
    """The lines of each sentence as columns."""
    found: list[list[str]] = []
    for line in lines:
        parts = columns_of(line)
        if parts:
            found.append(parts)
        elif found:
            yield found
            found = []
    if found:
        yield found


def columns_of(line: str) -> list[str]:
    """The columns of a line, between spaces and tabs; no other space ends a token."""
    return [part for part in SEPARATORS.split(line.strip("\r\n")) if part]


def spans_of(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Labelled spans of characters of words that are joined with single spaces.

    A tag begins an entity where it says so (B), or where the one before is of another or none.
    """
    found: list[dict[str, Any]] = []
    place, before = 0, "O"
    for word, tag in zip(words, tags, strict=True):
        end, label = place + len(word), tag[2:]
        goes_on = before != "O" and before[2:] == label and tag[:1] in "IE" and before[:1] in "BI"
        if tag != "O" and goes_on:
            found[-1]["end"] = end
        elif tag != "O":
            found.append({"start": place, "end": end, "label": label})
        place, before = end + 1, tag
    return found

"""Plain text files: every file is one record, a document.

Its columns are ``text``, the whole file; ``title``, its first line that is not blank; ``body``,
what follows it; ``folder``, the name of the folder that holds it, and ``file``, its own name with
the folders above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from lmwright.data.formats.opener import ANOTHER, LINE_LIMIT, open_text
from lmwright.data.formats.record import Fault, Record, Table, need_columns

COLUMNS = ("text", "title", "body", "folder", "file")
SUFFIXES = (".txt", ".text")


def read_text(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """The one record of a file, or a fault where it is blank, too long or not of its encoding."""
    need_columns(table, list(COLUMNS), columns)
    origin = f"{table.name}:1"
    with open_text(table) as lines:
        try:
            text = lines.read(LINE_LIMIT + 1)
        except UnicodeError as error:
            yield Fault(origin, f"not {lines.encoding}", f"{error}; {ANOTHER}")
            return
    if len(text) > LINE_LIMIT:
        detail = f"over {LINE_LIMIT:,} characters; cut the file into documents"
        yield Fault(origin, "text file too long", detail)
        return
    title, _, body = text.strip().partition("\n")
    if not title:
        yield Fault(origin, "empty text file", "fill it or remove it")
        return
    record = {
        "text": text,
        "title": title.strip(),
        "body": body.strip(),
        "folder": PurePosixPath(table.name).parent.name,
        "file": table.name,
    }
    wanted = [*columns, *(each for each in table.optional if each in COLUMNS)] or COLUMNS
    yield origin, {name: record[name] for name in wanted}

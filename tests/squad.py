"""SQuAD's files as tests read them; skipped where their package cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmwright.assets import asset_file
from lmwright.core.errors import MissingPart
from lmwright.core.task import role_columns
from lmwright.data.sources import RawRow, Source, read_source
from lmwright.tasks.question_answering import QuestionAnswering

DEVELOPMENT, REDDIT = "squaddev_v1.1.json", "reddit_v1.0.json"
TASK = QuestionAnswering()


def address(name: str) -> str:
    """The address of a file."""
    return f"asset:squad-shifts/{name}"


def squad_file(name: str = DEVELOPMENT) -> Path:
    """The path of a file."""
    try:
        return asset_file(address(name))
    except MissingPart as error:
        pytest.skip(f"this machine cannot have SQuAD: {error.found}")


def squad(limit: int = 0, name: str = DEVELOPMENT, **settings: Any) -> Iterator[RawRow]:
    """Rows of a file, drawn at random where there is a limit."""
    squad_file(name)
    source = Source(name="squad", path=address(name), id="id", limit=limit, **settings)
    rows = read_source(source, role_columns(TASK, "input", "target"))
    return (row for row in rows if isinstance(row, RawRow))

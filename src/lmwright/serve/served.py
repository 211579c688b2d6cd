"""Answered requests, as they are handed to observers."""

from __future__ import annotations

from dataclasses import dataclass

from lmwright.core.columns import Row
from lmwright.serve.rows import Answer


@dataclass(frozen=True)
class Served:
    """One answered request: its rows' input columns and their answers."""

    id: str
    time: float
    client: str
    version: str
    rows: tuple[Row, ...]
    answers: tuple[Answer, ...]

"""Answered requests, as observers see them; no server is needed for it."""

from __future__ import annotations

from dataclasses import dataclass

from lmwright.serve.engine import Answer


@dataclass(frozen=True)
class Served:
    """One answered request, as it is handed to whoever watches."""

    id: str
    time: float
    client: str
    version: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    answers: tuple[Answer, ...]

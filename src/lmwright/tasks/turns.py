"""Conversations taken apart: a row for each answer of the assistant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.data.sources import Fault, RawRow


@dataclass(frozen=True, kw_only=True)
class Turns(Settings):
    """Each row with ``messages`` becomes one for every message of the assistant: those before it,
    and the ``response``.

    ``most``  rows of one conversation, at most, drawn at random; 0: all.

    The rows of a conversation share their ``cluster``, so no split parts them. A conversation
    without an answer of the assistant is a fault; what a user says last is left out.
    """

    columns: ClassVar[tuple[str, ...]] = ("messages", "response")
    side: ClassVar[tuple[str, ...]] = ("cluster",)

    most: int = 0

    def check(self) -> None:
        """BadInput for a number out of range."""
        if self.most < 0:
            raise BadInput(f"most is {self.most}", "a number from 0")

    def reads(self) -> tuple[str, ...]:
        """No further column."""
        return ()

    def rows(
        self, rows: Iterator[RawRow | Fault], rng: np.random.Generator
    ) -> Iterator[RawRow | Fault]:
        """The rows of each conversation, in their order."""
        for row in rows:
            if isinstance(row, Fault):
                yield row
                continue
            messages = row.values["messages"]
            places = [n for n, each in enumerate(messages) if each["role"] == "assistant"]
            if not places:
                yield Fault(row.origin, "no response", f"{len(messages)} messages")
                continue
            if self.most and len(places) > self.most:
                drawn = rng.choice(len(places), self.most, replace=False)
                places = [places[n] for n in sorted(drawn)]
            for place in places:
                values = {
                    **row.values,
                    "messages": messages[:place],
                    "response": messages[place]["content"],
                }
                own = f"{row.id}-{place}" if row.id else ""
                yield replace(row, values=values, id=own, side={**row.side, "cluster": row.origin})

"""Rows of one text that is cleaned before it is read, and of a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmwright.core.columns import Row
from lmwright.core.stage import Settings
from lmwright.text.cleaning import Step, cleaner, refuse_order


@dataclass(frozen=True, kw_only=True)
class OneText(Settings):
    """What tasks of one text have in common: its cleaning. Every row stands for itself."""

    clean: tuple[Step, ...] = ("repair",)

    def check(self) -> None:
        """BadInput for cleaning steps that cannot be."""
        refuse_order(self.clean)

    @property
    def cleaner(self) -> Callable[[str], str]:
        """How a text is cleaned."""
        return cleaner(self.clean)

    def cleaned(self, row: Row) -> Row:
        """The row with its text as a model reads it."""
        return {**row, "text": self.cleaner(row["text"])}

    def stratum(self, row: Row) -> str:
        """No shares are kept."""
        return ""

    def cluster(self, row: Row) -> str:
        """Every row stands for itself."""
        return ""

    def text(self, row: Row) -> str:
        """The cleaned text."""
        return self.cleaner(row["text"])

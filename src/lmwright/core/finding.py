"""What a check found: a fact, how bad it is, a row that shows it, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Word = Literal["stop", "warn", "note"]


@dataclass(frozen=True)
class Finding:
    """A fact that a check found: how bad it is, the id of a row that shows it, what to do."""

    check: str
    word: Word
    fact: str
    row: str = ""
    cure: str = ""

    def line(self) -> str:
        """The finding in a line."""
        shown = f" (row {self.row[:12]})" if self.row else ""
        cure = f"; do this: {self.cure}" if self.cure else ""
        return f"{self.word}  {self.check}: {self.fact}{shown}{cure}"

    def to_json(self) -> dict[str, str]:
        """The finding as JSON values."""
        return asdict(self)

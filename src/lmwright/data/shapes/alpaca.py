"""Alpaca's rows (Taori et al. 2023): an ``instruction``, an ``input`` to it, and the ``output``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmwright.core.columns import Unfit
from lmwright.core.stage import Settings
from lmwright.data.shape import list_in, said, text_in


@dataclass(frozen=True, kw_only=True)
class Alpaca(Settings):
    """An instruction with its answer, as a conversation: the input stands below the instruction.

    ``instruction``, ``input`` and ``output`` are keys; so are ``system``, of a system message, and
    ``history``, of earlier pairs of instruction and answer.
    """

    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    system: str = "system"
    history: str = "history"

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True for a row with instruction and output."""
        return self.instruction in row and self.output in row

    def read(self, row: Mapping[str, Any]) -> list[Any]:
        """The earlier pairs, the instruction and the output, the system's message before them."""
        system = text_in(row, self.system)
        found = [said("system", system)] if system.strip() else []
        if row.get(self.history):
            for pair in list_in(row, self.history):
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise Unfit("wrong type", f"{self.history} holds {pair!r}, no pair"[:200])
                found += [said("user", pair[0]), said("assistant", pair[1])]
        asked = [text_in(row, name) for name in (self.instruction, self.input)]
        output = text_in(row, self.output, needed=True)
        question = "\n".join(text for text in asked if text.strip())
        return [*found, said("user", question), said("assistant", output)]

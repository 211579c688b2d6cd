"""Small stages that stand for real ones in tests of the store: they write, read and add numbers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.core.stage import Stage, Work, inert


@dataclass(frozen=True, kw_only=True)
class Draw(Stage):
    """Gives some numbers."""

    count: int = 4
    workers: int = inert(1)

    def gives(self) -> tuple[str, ...]:
        return ("numbers",)

    def check(self) -> None:
        if self.count < 1:
            raise BadInput(f"count is {self.count}", "at least 1")

    def run(self, work: Work) -> dict[str, Any]:
        numbers = stream(self.seed, "draw").integers(0, 1000, self.count).tolist()
        (work.out("numbers") / "numbers.json").write_text(json.dumps(numbers))
        return {"count": len(numbers)}


@dataclass(frozen=True, kw_only=True)
class Total(Stage):
    """Adds the numbers up, keeping a checkpoint after each."""

    fail_at: int = -1

    def needs(self) -> tuple[str, ...]:
        return ("numbers",)

    def gives(self) -> tuple[str, ...]:
        return ("total",)

    def run(self, work: Work) -> dict[str, Any]:
        numbers = json.loads((work.inputs["numbers"] / "numbers.json").read_text())
        checkpoint = work.scratch / "checkpoint.json"
        place, total = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, 0)
        work.record("began at", place=place)
        for index in range(place, len(numbers)):
            if index == self.fail_at and not os.environ.get("TOY_MENDED"):
                raise BadInput("the toy was told to fail", "another setting")
            total = scaled(total) + numbers[index]
            beside = checkpoint.with_suffix(".new")
            beside.write_text(json.dumps([index + 1, total]))
            beside.rename(checkpoint)
            work.progress(index + 1, len(numbers))
        (work.out("total") / "total.json").write_text(json.dumps(total))
        return {"total": total}


def scaled(total: int) -> int:
    """One step of the sum."""
    return total * 3


STAGES = {"draw": Draw, "total": Total}


def resolve(table: str, name: str) -> type[Stage]:
    """The toy's own table."""
    if table != "stages" or name not in STAGES:
        raise BadInput(f"{name!r} is not among the {table}", "a known name")
    return STAGES[name]

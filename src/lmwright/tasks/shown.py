"""Rows with right answers that a prompt shows a language model, and the choice of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.random import stream
from lmwright.core.task import Task, asked_of
from lmwright.data.sample import subset
from lmwright.index.lexical import BM25

Select = Literal["random", "balanced", "nearest"]
"""How rows are chosen. ``random``: each stratum keeps its share; ``balanced``: as many of each
stratum; ``nearest``: for each text those most like it by BM25 (Liu et al. 2022), of a pool."""


@dataclass(frozen=True)
class Shown:
    """A row that a prompt shows: its id, its text and its right answer in words."""

    id: str
    text: str
    target: str


@dataclass(frozen=True)
class Examples:
    """The rows that a prompt shows: all of the ``pool``, or for each text its ``nearest`` ones."""

    pool: tuple[Shown, ...] = ()
    nearest: int = 0

    @cached_property
    def index(self) -> BM25:
        """The pool by its words."""
        return BM25([each.text for each in self.pool])

    def of(self, text: str) -> tuple[Shown, ...]:
        """The rows that are shown for a text, the most like it last; never the text itself."""
        if not self.nearest:
            return self.pool
        others = np.array([n for n, each in enumerate(self.pool) if each.text != text], dtype=int)
        order = self.index.nearest(text, others)
        found = [self.pool[place] for place, _ in zip(order, range(self.nearest), strict=False)]
        return tuple(reversed(found))

    def to_json(self) -> dict[str, Any]:
        """The values that :func:`read_examples` reads."""
        return {"shown": [asdict(each) for each in self.pool], "nearest": self.nearest}


def read_examples(described: Mapping[str, Any], where: str) -> Examples:
    """The rows that :meth:`Examples.to_json` wrote, none where there are none; Corrupt if they are
    not whole."""
    try:
        pool = tuple(Shown(**each) for each in described.get("shown", []))
        nearest = described.get("nearest", 0)
        if any(type(value) is not str for each in pool for value in asdict(each).values()):
            raise TypeError("a shown row is no text")
        if type(nearest) is not int or not 0 <= nearest <= len(pool):
            raise TypeError(f"nearest is {nearest!r}")
    except TypeError as fault:
        raise Corrupt(f"{where} is not whole ({fault})", "a prompt as it was written") from None
    return Examples(pool, nearest)


def check_shown(count: int, select: Select, pool: int) -> None:
    """BadInput for numbers of rows that cannot be."""
    if count < 0:
        raise BadInput(f"shown is {count}", "0 or more")
    if select == "nearest" and not 0 < count <= pool:
        raise BadInput(f"shown is {count}, pool {pool}", "at least 1 row, of a pool that has them")


def choose(
    task: Task, rows: pa.Table, count: int, select: Select, pool: int, seed: int
) -> tuple[Examples, pa.Table]:
    """The rows of a prompt, of which ``count`` are shown, and the table of all that may be.

    BadInput for strata that are to be balanced where there are none.
    """
    if not count:
        return Examples(), rows.slice(0, 0)
    if select == "balanced":
        chosen = balanced(task, rows, count, seed)
    else:
        chosen = subset(task, rows, pool if select == "nearest" else count, seed)
    if select != "nearest":
        chosen = chosen.slice(0, count)
    found = [Shown(row["id"], asked_of(task, row), task.target(row)) for row in chosen.to_pylist()]
    nearest = min(count, len(found)) if select == "nearest" else 0
    return Examples(tuple(found), nearest), chosen


def balanced(task: Task, rows: pa.Table, count: int, seed: int) -> pa.Table:
    """``count`` rows in random order, as many of each stratum; the first may have one more."""
    strata = np.array([task.stratum(row) for row in rows.to_pylist()])
    names = sorted({*strata.tolist()} - {""})
    if not names:
        raise BadInput(
            f"select is balanced, and {task.kind} has no strata",
            "a task whose rows fall into groups",
            "set select to random or nearest",
        )
    parts = []
    for place, name in enumerate(names):
        wanted = count // len(names) + (place < count % len(names))
        own = rows.filter(pa.array(strata == name))
        parts.append(subset(task, own, wanted, seed).slice(0, wanted))
    found = pa.concat_tables(parts)
    return found.take(pa.array(stream(seed, "shown").permutation(found.num_rows)))


def pairs(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """Texts and targets."""
    return [(each.text, each.target) for each in shown]

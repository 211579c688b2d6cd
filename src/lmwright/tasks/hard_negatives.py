"""Hard negatives: documents that share words with a query and do not belong to it.

Karpukhin et al. 2020 (section 3.2) and Nogueira and Cho 2019 take the nearest by BM25 so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.data.sources import Fault, RawRow
from lmwright.index.lexical import BM25


@dataclass(frozen=True, kw_only=True)
class HardNegatives(Settings):
    """Beside the rows of a query and a document that belongs to it, rows with the nearest others.

    ``nearest``  documents a query that are nearest to it by BM25.
    ``random``   documents a query that are drawn at random among all others.

    They have relevance 0, and are synthetic: one of them may be as good an answer as the right one,
    though nobody said so. All rows of the source are in memory.
    """

    columns: ClassVar[tuple[str, ...]] = ("query", "document", "relevance")
    side: ClassVar[tuple[str, ...]] = ()

    nearest: int = 4
    random: int = 0

    def check(self) -> None:
        """BadInput for numbers out of range."""
        if min(self.nearest, self.random) < 0 or not self.nearest + self.random:
            raise BadInput(f"nearest {self.nearest}, random {self.random}", "numbers from 0, not 0")

    def reads(self) -> tuple[str, ...]:
        """No further column."""
        return ()

    def rows(
        self, rows: Iterator[RawRow | Fault], rng: np.random.Generator
    ) -> Iterator[RawRow | Fault]:
        """All rows in their order, behind the first one of each query those that are made for it.

        BadInput where there are not enough documents.
        """
        every = list(rows)
        read = [row for row in every if isinstance(row, RawRow)]
        documents = list(dict.fromkeys(row.values["document"] for row in read))
        known: dict[str, set[str]] = defaultdict(set)
        for row in read:
            known[row.values["query"]].add(row.values["document"])
        count = self.nearest + self.random
        if read and len(documents) < count + max(map(len, known.values())):
            raise BadInput(
                f"{len(documents)} documents", f"{count} a query beside those that belong to it"
            )
        places = np.arange(len(documents))
        index, at = BM25(documents), {text: place for place, text in enumerate(documents)}
        done: set[str] = set()
        for given in every:
            yield given
            if isinstance(given, Fault) or given.values["query"] in done:
                continue
            query = given.values["query"]
            done.add(query)
            own = {at[text] for text in known[query]}
            others = (place for place in index.nearest(query, places) if place not in own)
            chosen = list(islice(others, self.nearest))
            drawn = rng.permutation(len(documents)).tolist() if self.random else []
            taken = own.union(chosen)
            left = (place for place in drawn if place not in taken)
            chosen += list(islice(left, self.random))
            for number, place in enumerate(chosen, 1):
                values = {**given.values, "document": documents[place], "relevance": 0.0}
                yield replace(given, values=values, id=f"{given.id}-{number}" if given.id else "")

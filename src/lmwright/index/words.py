"""An index of texts by their words: BM25 with entries that come and go."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import read_json_object
from lmwright.index.entries import Entries, Filter, Hit
from lmwright.index.lexical import BM25

DESCRIPTION = "index.json"


class WordIndex:
    """Texts with an id and columns each.

    Every entry changes the weight of the words in all others, so the weights are computed anew
    before the first search after a change.
    """

    kind: ClassVar[str] = "words"

    def __init__(self) -> None:
        self.entries = Entries()
        self.texts: list[str] = []
        self._weights: BM25 | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def add(
        self, ids: Sequence[str], texts: Sequence[str], columns: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add entries by their texts; columns are JSON values. BadInput for an id that is there
        already; nothing is added then."""
        if len(ids) != len(texts):
            raise BadInput(f"{len(ids)} ids and {len(texts)} texts", "as many")
        self.entries.add(ids, columns)
        self.texts += texts
        self._weights = None

    def forget(self, ids: Collection[str]) -> int:
        """Remove the entries with these ids, as far as they are there; how many were."""
        stays = self.entries.forget(ids)
        self.texts = [each for each, kept in zip(self.texts, stays, strict=True) if kept]
        self._weights = None
        return int((~stays).sum())

    def search(
        self, queries: Sequence[str], most: int = 10, where: Filter | None = None
    ) -> list[list[Hit]]:
        """The ``most`` entries with the highest BM25 for each query that share a word with it.

        ``where`` leaves only the entries that have these columns; words are weighed by all entries.
        Of equals the one added earlier stands first.
        """
        if self._weights is None:
            self._weights = BM25(self.texts)
        among = self.entries.matching(where or {})
        found = []
        for query in queries:
            scores = self._weights.scores(query)[among]
            hit = scores > 0
            found.append(self.entries.best(scores[hit], among[hit], most))
        return found

    def save(self, folder: Path) -> None:
        """Write ``index.json``; the same index, the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        entries = self.entries.to_json()
        write_json(
            folder / DESCRIPTION, {"kind": self.kind, "texts": self.texts, "entries": entries}
        )

    @classmethod
    def load(cls, folder: Path) -> WordIndex:
        """The index that :meth:`save` wrote; Corrupt if it is not whole."""
        said = read_json_object(folder / DESCRIPTION)
        texts = said.get("texts")
        right = isinstance(texts, list) and all(isinstance(each, str) for each in texts)
        if said.get("kind") != cls.kind or not right:
            raise Corrupt(f"{folder / DESCRIPTION} is not whole", "an index of texts")
        found = cls()
        found.entries = Entries.read(said.get("entries"), str(folder / DESCRIPTION))
        found.texts = list(texts or ())
        if len(found.texts) != len(found.entries):
            raise Corrupt(
                f"{folder / DESCRIPTION} has {len(found.texts)} texts", f"{len(found.entries)}"
            )
        return found

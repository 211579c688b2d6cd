"""Searching a collection of texts by words, by the vectors of an encoder, or by both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from lmwright.core.bases import BASE, base_folder, bases_of
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import read_json_object
from lmwright.core.task import Task, read_task, task_to_json
from lmwright.index.entries import Filter, Hit
from lmwright.index.vector import VectorIndex
from lmwright.index.words import WordIndex
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextPredictor
from lmwright.tables import resolve

By = Literal["words", "vectors", "both"]
DESCRIPTION = "searcher.json"
WORDS, VECTORS = "words", "vectors"
RANK = 60.0
"""The constant k of reciprocal rank fusion (Cormack et al. 2009, section 2)."""
DEPTH = 100
"""Hits of each index that are joined."""
AT_ONCE = 256
"""Texts that are embedded between two words on progress."""


@dataclass(frozen=True)
class Found:
    """A text that was found: higher scores are nearer; ``columns`` are what a filter reads."""

    id: str
    score: float
    text: str
    columns: Mapping[str, Any]


class Searcher:
    """A collection of texts in two indexes; the second one only where there is an ``encoder``.

    ``clean`` is done to every text and query, as the rows' task does it.
    """

    def __init__(
        self, task: Task, encoder: TextPredictor | None = None, encoder_content: str = ""
    ) -> None:
        """``encoder_content`` is the content hash of the encoder's artifact."""
        self.task, self.encoder, self.encoder_content = task, encoder, encoder_content
        self.words = WordIndex()
        self.vectors = VectorIndex(encoder.model.network.width) if encoder else None
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.words)

    def add(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        columns: Sequence[Mapping[str, Any]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Add texts with an id and JSON columns each; BadInput for an id that is there already."""
        vectors = self.embed(texts, progress) if self.vectors is not None and ids else None
        self.words.add(ids, [self.cleaned(text) for text in texts], columns)
        if self.vectors is not None and vectors is not None:
            self.vectors.add(ids, vectors, columns)

    def forget(self, ids: Collection[str]) -> int:
        """Remove texts by their ids, as far as they are there; how many were."""
        if self.vectors is not None:
            self.vectors.forget(ids)
        return self.words.forget(ids)

    def search(
        self,
        queries: Sequence[str],
        most: int = 10,
        by: By | None = None,
        where: Filter | None = None,
    ) -> list[list[Found]]:
        """The ``most`` nearest texts to each query, the nearest first.

        ``by`` words: BM25, texts that share a word alone; by vectors: the cosine, of every text;
        by both, the default where there is an encoder: the sum of 1 / (60 + rank) over both
        (reciprocal rank fusion, Cormack et al. 2009). ``where`` leaves only the texts that have
        these columns; BadInput for a column that none has.
        """
        by = by or ("words" if self.vectors is None else "both")
        if most < 1:
            raise BadInput(f"the {most} nearest texts", "at least 1")
        if blank := [query for query in queries if not query.strip()]:
            raise BadInput(f"the query {blank[0]!r}", "a text with characters that show")
        if by != "words" and self.vectors is None:
            raise BadInput(
                f"by is {by}, and the index has no vectors",
                "words",
                "name the artifact of an encoder in the stage: index: {model: model}",
            )
        self.refuse_unknown(where or {})
        depth = most if by != "both" else max(most, DEPTH)
        rankings: list[list[list[Hit]]] = []
        if by != "vectors":
            cleaned = [self.cleaned(query) for query in queries]
            rankings.append(self.words.search(cleaned, depth, where))
        if by != "words" and self.vectors is not None:
            vectors = self.embed(queries) if len(queries) else np.zeros((0, self.vectors.width))
            rankings.append(self.vectors.search(vectors, depth, where))
        if by != "both":
            return [[self.found(hit, hit.score) for hit in own] for own in rankings[0]]
        return [self.joined(own, most) for own in zip(*rankings, strict=True)]

    def refuse_unknown(self, where: Filter) -> None:
        """BadInput for a column that no text has: every text would be left out."""
        known = {name for own in self.words.entries.columns for name in own}
        for name in where:
            if name not in known:
                raise BadInput(
                    f"where names {name!r}",
                    f"a column that stands beside the texts: {', '.join(sorted(known)) or 'none'}",
                    "add it to keep of the stage index",
                )

    def joined(self, rankings: Sequence[list[Hit]], most: int) -> list[Found]:
        """The best hits by the sum of their reciprocal ranks; of equals the one added earlier."""
        scores: dict[str, float] = {}
        hits = {hit.id: hit for ranking in rankings for hit in ranking}
        for ranking in rankings:
            for rank, hit in enumerate(ranking, 1):
                scores[hit.id] = scores.get(hit.id, 0.0) + 1 / (RANK + rank)
        order = sorted(scores, key=lambda each: (-scores[each], self.place(each)))
        return [self.found(hits[each], scores[each]) for each in order[:most]]

    def found(self, hit: Hit, score: float) -> Found:
        """A hit with its text."""
        return Found(hit.id, score, self.words.texts[self.place(hit.id)], hit.columns)

    def place(self, name: str) -> int:
        """The place of a text by its id."""
        ids = self.words.entries.ids
        place = self._places.get(name)
        if place is None or place >= len(ids) or ids[place] != name:
            self._places = {each: place for place, each in enumerate(ids)}
        return self._places[name]

    def cleaned(self, text: str) -> str:
        """A text as the rows' task reads it."""
        return cleaner_of(self.task)(text)

    def embed(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """The encoder's vectors (n, width) of texts, float32, at length 1."""
        model = cast(TextPredictor, self.encoder).model
        cleaned, found = [self.cleaned(text) for text in texts], []
        for start in range(0, len(cleaned), AT_ONCE):
            found.append(model.embed(model.tokens(cleaned[start : start + AT_ONCE])))
            if progress is not None:
                progress(min(start + AT_ONCE, len(cleaned)), len(cleaned))
        return np.concatenate(found)

    def save(self, folder: Path) -> None:
        """Write both indexes; the encoder is named by its content hash, as what this stands on."""
        folder.mkdir(parents=True, exist_ok=True)
        self.words.save(folder / WORDS)
        if self.vectors is not None:
            self.vectors.save(folder / VECTORS)
            write_json(folder / BASE, {"artifacts": [self.encoder_content]})
        write_json(folder / DESCRIPTION, {"kind": "index", "task": task_to_json(self.task)})

    @classmethod
    def load(cls, folder: Path) -> Searcher:
        """The collection that :meth:`save` wrote; Corrupt if it is not whole."""
        if not is_index(folder):
            raise BadInput(f"no {DESCRIPTION} in {folder}", "an artifact of the stage index")
        described = read_json_object(folder / DESCRIPTION)
        task = read_task(described.get("task"), str(folder / DESCRIPTION), resolve)
        bases, encoder = bases_of(folder), None
        for content in bases[:1]:
            predictor = load_predictor(base_folder(folder, content))
            if not isinstance(predictor, TextPredictor):
                raise Corrupt(f"{folder / BASE} names a {predictor.kind} model", "an encoder")
            encoder = predictor
        found = cls(task, encoder, next(iter(bases), ""))
        found.words = WordIndex.load(folder / WORDS)
        if encoder is not None:
            found.vectors = VectorIndex.load(folder / VECTORS)
            if found.vectors.entries.ids != found.words.entries.ids:
                raise Corrupt(f"{folder}: the two indexes have other ids", "the same texts in both")
        return found


def is_index(folder: Path) -> bool:
    """True for a folder that holds a collection that :meth:`Searcher.save` wrote."""
    return (folder / DESCRIPTION).is_file()


def cleaner_of(task: Task) -> Callable[[str], str]:
    """The cleaner of the rows' task; the identity where it has none."""
    found: Callable[[str], str] = getattr(task, "cleaner", str)
    return found

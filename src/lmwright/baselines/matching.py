"""Baselines of pairs of texts: shared words, weighed by BM25 or as TF-IDF vectors.

The weights come from the training texts alone, so that a pair's score depends on no other pair.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, role_columns, task_to_json
from lmwright.text.bm25 import K1, inverse_frequencies, term_weights, words_of

FILE = "words.json"
M = TypeVar("M", bound="Matching")


class PairTask(Protocol):
    """A task whose answers are scores of the likeness of two texts."""

    def scored(self, cosines: np.ndarray) -> np.ndarray:
        """Scores (n,) of likenesses from 0 to 1."""


@dataclass(frozen=True)
class Pair:
    """Both texts of a row as word ids and how often each stands there."""

    first: tuple[np.ndarray, np.ndarray]
    second: tuple[np.ndarray, np.ndarray]
    ids: np.ndarray

    @property
    def cost(self) -> int:
        """Number of words of both texts, at least 1."""
        return max(1, len(self.ids))


class Matching:
    """Document frequencies of words in a number of ``texts``, and the mean length in words.

    A leaf says of which texts, and how words are weighed on either side: the likeness of a pair is
    the product of its two rows of weights, from 0 to 1. The pair is the task's first two inputs.
    """

    kind: ClassVar[str]
    counted_sides: ClassVar[slice]

    def __init__(self, task: Task, words: Mapping[str, int], texts: int, mean: float) -> None:
        self.task, self.texts, self.mean = task, texts, mean
        self.words = sorted(words)
        self.places = {word: place for place, word in enumerate(self.words)}
        self.counts = np.array([words[word] for word in self.words], dtype=np.float64)

    @classmethod
    def fit(cls: type[M], task: Task, rows: pa.Table, seed: int) -> M:
        """Count the words of the rows' texts, each text once."""
        names = sides_of(task)
        table = [task.cleaned(row) for row in rows.select(names).to_pylist()]
        texts = {row[name] for name in names[cls.counted_sides] for row in table}
        found = [words_of(text) for text in texts]
        counts: Counter[str] = Counter()
        for each in found:
            counts.update(set(each))
        if not counts:
            raise BadInput(f"{len(texts)} texts without a word", "texts with words")
        return cls(task, counts, len(texts), sum(map(len, found)) / len(texts))

    def facts(self) -> dict[str, Any]:
        """The numbers of texts and words."""
        return {"texts": self.texts, "words": len(self.words)}

    def first_weights(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Weights (m,) of the words of a first text, which are there ``counts`` (m,) times."""
        raise NotImplementedError

    def second_weights(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Weights (m,) of the words of a second text."""
        raise NotImplementedError

    def having(self, ids: np.ndarray) -> np.ndarray:
        """In how many of the texts each word is (m,); in none, if it is not known."""
        found = np.zeros(len(ids))
        known = ids < len(self.words)
        found[known] = self.counts[ids[known]]
        return found

    def counted(self, text: str) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """The different word ids of a text, ascending, with their counts; and all of them."""
        unknown = len(self.words)
        ids = np.array(
            [
                self.places[word] if word in self.places else unknown + zlib.crc32(word.encode())
                for word in words_of(text)
            ],
            dtype=np.int64,
        )
        different, counts = np.unique(ids, return_counts=True)
        return (different, counts.astype(np.float64)), ids

    def prepare(self, rows: Sequence[Row]) -> list[Pair]:
        """The words of both texts of each row."""
        found, names = [], sides_of(self.task)
        for row in rows:
            clean = self.task.cleaned(row)
            (first, one), (second, two) = (self.counted(clean[name]) for name in names)
            found.append(Pair(first, second, np.concatenate([one, two])))
        return found

    def answers(self, batch: Sequence[Pair]) -> Answers:
        """Scores, and the weights of the words of both texts, from which any pair is scored."""
        first = [self.first_weights(*pair.first) for pair in batch]
        second = [self.second_weights(*pair.second) for pair in batch]
        likeness = []
        for pair, one, two in zip(batch, first, second, strict=True):
            _, at, of = np.intersect1d(
                pair.first[0], pair.second[0], assume_unique=True, return_indices=True
            )
            likeness.append(float(one[at] @ two[of]))
        task: Any = self.task
        scores: PairTask = task
        return Answers(
            {
                "score": scores.scored(np.array(likeness)),
                "terms1": [pair.first[0] for pair in batch],
                "weights1": first,
                "terms2": [pair.second[0] for pair in batch],
                "weights2": second,
            }
        )

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and ``words.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DESCRIPTION, {"kind": self.kind, "task": task_to_json(self.task)})
        counts = {word: int(n) for word, n in zip(self.words, self.counts, strict=True)}
        write_json(folder / FILE, {"texts": self.texts, "mean": self.mean, "words": counts})

    @classmethod
    def load(cls: type[M], folder: Path, task: Task) -> M:
        """The baseline that :meth:`save` wrote; Corrupt if it is not whole."""
        kept = read_json_object(folder / FILE)
        words, texts, mean = (cast(Any, kept.get(name)) for name in ("words", "texts", "mean"))
        right = (
            isinstance(words, dict)
            and isinstance(texts, int)
            and isinstance(mean, float)
            and all(isinstance(n, int) and 0 < n <= texts for n in words.values())
        )
        if not right or not words or not mean:
            raise Corrupt(f"{folder / FILE} is not whole", "texts, their mean length, and words")
        return cls(task, words, texts, mean)


class BM25(Matching):
    """Okapi BM25 of the second text for the first, as a share of the most that a text could have.

    The weights are those of text/bm25.py, document frequencies those among the second texts.
    """

    kind = "bm25"
    counted_sides = slice(1, 2)

    def idf(self, ids: np.ndarray) -> np.ndarray:
        """The inverse document frequency (m,) of words."""
        return inverse_frequencies(self.having(ids), self.texts)

    def first_weights(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Counts (m,) of a query's words, over the score of a text that is full of all of them."""
        most = float((counts * self.idf(ids)).sum()) * (K1 + 1)
        return counts / most if most else counts

    def second_weights(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """BM25 weights (m,) of a document's words."""
        return term_weights(counts, self.idf(ids), counts.sum() / self.mean)


class TfidfCosine(Matching):
    """The cosine of TF-IDF vectors: sublinear counts, smoothed inverse document frequency."""

    kind = "tfidf-cosine"
    counted_sides = slice(0, 2)

    def first_weights(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """A row of TF-IDF at length 1."""
        idf = np.log((1 + self.texts) / (1 + self.having(ids))) + 1
        found: np.ndarray = (1 + np.log(counts)) * idf
        return found / max(float(np.sqrt(np.square(found).sum())), 1e-12)

    def second_weights(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """As those of a first text."""
        return self.first_weights(ids, counts)


def sides_of(task: Task) -> list[str]:
    """The columns of both texts of a pair."""
    return [column.name for column in role_columns(task, "input")][:2]

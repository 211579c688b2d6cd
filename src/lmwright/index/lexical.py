"""Okapi BM25 over a list of texts.

Robertson and Zaragoza 2009, *The Probabilistic Relevance Framework: BM25 and Beyond*, section 3.4,
with the inverse document frequency ln(1 + (N - n + 0.5)/(n + 0.5)), which is never negative.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without marks."""
    return WORD.findall(text.lower())


class BM25:
    """An index of texts by their words; it is built once and holds no texts.

    ``k1`` says how soon a further mention of a word counts little, ``b`` how much a long text's
    mentions are discounted.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(words_of(text)) for text in texts]
        lengths = np.array([each.total() for each in counts], dtype=np.float64)
        self.size = len(texts)
        self.postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        mean = lengths.mean() if lengths.any() else 1.0
        penalty = k1 * (1 - b + b * lengths / mean)
        places: dict[str, list[tuple[int, int]]] = {}
        for place, each in enumerate(counts):
            for word, count in each.items():
                places.setdefault(word, []).append((place, count))
        for word, found in places.items():
            rows, tf = np.array(found).T
            idf = np.log1p((self.size - len(rows) + 0.5) / (len(rows) + 0.5))
            self.postings[word] = rows, idf * tf * (k1 + 1) / (tf + penalty[rows])

    def scores(self, query: str) -> np.ndarray:
        """The score (texts,) of every text; a word counts as often as the query has it."""
        found = np.zeros(self.size)
        for word in words_of(query):
            if word in self.postings:
                rows, weights = self.postings[word]
                found[rows] += weights
        return found

    def nearest(self, query: str, among: np.ndarray) -> Iterator[int]:
        """The texts ``among`` (places), the nearest first; of equals the earlier one."""
        scores = self.scores(query)[among]
        return iter(among[np.argsort(-scores, kind="stable")].tolist())

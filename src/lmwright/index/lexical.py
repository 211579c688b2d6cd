"""Okapi BM25 over a list of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lmwright.text.bm25 import K1, B, inverse_frequencies, term_weights, words_of


class BM25:
    """An index of texts by their words; it is built once and holds no texts.

    ``k1`` says how soon a further mention of a word counts little, ``b`` how much a long text's
    mentions are discounted.
    """

    def __init__(self, texts: Sequence[str], k1: float = K1, b: float = B) -> None:
        counts = [Counter(words_of(text)) for text in texts]
        lengths = np.array([each.total() for each in counts], dtype=np.float64)
        self.size = len(texts)
        self.postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        mean = lengths.mean() if lengths.any() else 1.0
        places: dict[str, list[tuple[int, int]]] = {}
        for place, each in enumerate(counts):
            for word, count in each.items():
                places.setdefault(word, []).append((place, count))
        for word, found in places.items():
            rows, tf = np.array(found).T
            idf = inverse_frequencies(np.array(len(rows)), self.size)
            self.postings[word] = rows, term_weights(tf, idf, lengths[rows] / mean, k1, b)

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

"""Okapi BM25: the weight of a word in a text.

Robertson and Zaragoza 2009, *The Probabilistic Relevance Framework: BM25 and Beyond*, section 3.4,
with the inverse document frequency ln(1 + (N - n + 0.5)/(n + 0.5)), which is never negative.
"""

from __future__ import annotations

import re

import numpy as np

K1, B = 1.2, 0.75
"""How soon a further mention counts little; how much mentions in long texts are discounted."""
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation."""
    return WORD.findall(text.lower())


def inverse_frequencies(having: np.ndarray, texts: int) -> np.ndarray:
    """Inverse document frequencies (m,) of words that ``having`` (m,) of all ``texts`` have."""
    found: np.ndarray = np.log1p((texts - having + 0.5) / (having + 0.5))
    return found


def term_weights(
    counts: np.ndarray, idf: np.ndarray, lengths: np.ndarray | float, k1: float = K1, b: float = B
) -> np.ndarray:
    """Weights (m,) of words with ``counts`` (m,) in texts of ``lengths``, as shares of the mean."""
    found: np.ndarray = idf * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths))
    return found

"""BM25 by its formula, by its properties, and on SQuAD's paragraphs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.index.lexical import BM25
from lmwright.text.bm25 import words_of
from tests.squad import squad

TEXTS = ("The cat sat on the mat.", "A dog sat.", "Dogs and cats, dogs and cats!", "Nothing.")


def by_formula(texts: tuple[str, ...], query: str, place: int, k1: float, b: float) -> float:
    """The score of one text (that has words), word by word."""
    counts = [words_of(text) for text in texts]
    mean = sum(map(len, counts)) / len(counts)
    total = 0.0
    for word in words_of(query):
        n = sum(word in own for own in counts)
        tf = counts[place].count(word)
        idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        length = 1 - b + b * len(counts[place]) / mean
        total += idf * tf * (k1 + 1) / (tf + k1 * length)
    return total


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=8).map(" ".join)


@given(
    st.lists(WORDS, min_size=1, max_size=6).map(tuple), WORDS, st.floats(0.1, 3), st.floats(0, 1)
)
def test_scores_are_those_of_the_formula(texts, query, k1, b):
    if not any(texts):
        return
    found = BM25(texts, k1, b).scores(query)
    wanted = [by_formula(texts, query, n, k1, b) if texts[n] else 0 for n in range(len(texts))]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_worked_values():
    """bm25s 0.3 (method lucene, k1 1.2, b 0.75) gives these, divided by k1 + 1."""
    index = BM25(TEXTS)
    assert index.scores("sat cats").tolist() == pytest.approx(
        [0.575443, 0.772113, 1.451365, 0.0], abs=1e-5
    )
    assert BM25([]).scores("sat").tolist() == []
    assert index.scores("unknown").tolist() == [0.0] * 4


def test_the_nearest_stand_first_and_equals_in_their_order():
    index = BM25(("a b", "b c", "c a", "b c"))
    assert list(index.nearest("b c", np.array([0, 1, 2, 3]))) == [1, 3, 0, 2]
    assert list(index.nearest("b c", np.array([3, 2]))) == [3, 2]


def test_questions_of_squad_find_their_paragraph():
    rows = list(squad(300))
    texts = list(dict.fromkeys(row.values["context"] for row in rows))
    index, every = BM25(texts), np.arange(len(texts))
    hits = [
        texts[next(index.nearest(row.values["question"], every))] == row.values["context"]
        for row in rows
    ]
    assert len(texts) > 250
    assert np.mean(hits) > 0.8

"""distinct-n by its definition, its error by leaving out, repeats within texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.metrics.diversity import distinct, ngrams, repeats

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=2)


def plainly(texts: list[str], size: int) -> float:
    """Li et al. 2016, section 5: distinct n-grams over all n-grams."""
    every = [
        tuple(words[at : at + size])
        for words in (text.split() for text in texts)
        for at in range(len(words) - size + 1)
    ]
    return len(set(every)) / len(every) if every else 0.0


@given(TEXTS, st.integers(1, 3))
def test_distinct_n_and_its_jackknife(texts: list[str], size: int) -> None:
    found = distinct(texts, size)
    assert found.value == pytest.approx(plainly(texts, size))
    left = np.array([plainly(texts[:n] + texts[n + 1 :], size) for n in range(len(texts))])
    error = np.sqrt((len(texts) - 1) / len(texts) * ((left - left.mean()) ** 2).sum())
    assert found.error == pytest.approx(error if found.value else 0.0)
    low, high = found.interval(0.95)
    assert 0 <= low <= found.value <= high <= 1


def test_words_are_those_of_any_language() -> None:
    assert ngrams("Größe, größe!", 1) == [("grösse",), ("grösse",)]
    assert repeats(["a b a b", "", "c d"], 2).tolist() == [[1, 3], [0, 0], [0, 1]]

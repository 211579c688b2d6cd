"""Entity scores as conlleval counts them: an entity is right if its span and its label are.

Tjong Kim Sang and De Meulder 2003, *Introduction to the CoNLL-2003 Shared Task*.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Span = tuple[int, int, str]
WORD = re.compile(r"\S+")


def as_spans(values: Sequence[Mapping[str, Any]]) -> set[Span]:
    """Spans as a set of (start, end, label)."""
    return {(each["start"], each["end"], each["label"]) for each in values}


def counts(
    truth: Sequence[Sequence[Mapping[str, Any]]],
    found: Sequence[Sequence[Mapping[str, Any]]],
    labels: Sequence[str],
) -> np.ndarray:
    """Right, found and true entities of each row by label: float64 (rows, labels, 3)."""
    table = np.zeros((len(truth), len(labels), 3))
    place = {label: number for number, label in enumerate(labels)}
    for row, (wanted, given) in enumerate(zip(truth, found, strict=True)):
        one, two = as_spans(wanted), as_spans(given)
        for kind, spans in enumerate((one & two, two, one)):
            for _, _, label in spans:
                if label in place:
                    table[row, place[label], kind] += 1
    return table


def word_counts(
    texts: Sequence[str],
    truth: Sequence[Sequence[Mapping[str, Any]]],
    found: Sequence[Sequence[Mapping[str, Any]]],
) -> np.ndarray:
    """Words with the right BIO tag and all words of each row: float64 (rows, 2).

    A word stands between spaces; its tag is that of the span in which it begins, B if no word
    before it begins there.
    """
    table = np.zeros((len(texts), 2))
    for row, (text, wanted, given) in enumerate(zip(texts, truth, found, strict=True)):
        starts = [word.start() for word in WORD.finditer(text)]
        pairs = zip(bio_tags(starts, wanted), bio_tags(starts, given), strict=True)
        table[row] = sum(one == two for one, two in pairs), len(starts)
    return table


def bio_tags(starts: Sequence[int], spans: Sequence[Mapping[str, Any]]) -> list[str]:
    """The BIO tags of words by where each starts."""
    tags = ["O"] * len(starts)
    for span in spans:
        places = range(bisect_left(starts, span["start"]), bisect_left(starts, span["end"]))
        for number, place in enumerate(places):
            tags[place] = f"{'I' if number else 'B'}-{span['label']}"
    return tags


def precision(sums: np.ndarray) -> np.ndarray:
    """Right over found, from sums (..., 3); 0 where nothing was found."""
    return _share(sums[..., 0], sums[..., 1])


def recall(sums: np.ndarray) -> np.ndarray:
    """Right over true, from sums (..., 3); 0 where nothing was to be found."""
    return _share(sums[..., 0], sums[..., 2])


def f1(sums: np.ndarray) -> np.ndarray:
    """The harmonic mean of precision and recall, from sums (..., 3)."""
    return _share(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def span_errors(table: np.ndarray) -> np.ndarray:
    """1 less the F1 of each row alone (rows,); 0 where nothing was true and nothing found."""
    sums = table.sum(1)
    empty = sums[:, 1:].sum(1) == 0
    return np.where(empty, 0.0, 1.0 - f1(sums))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)

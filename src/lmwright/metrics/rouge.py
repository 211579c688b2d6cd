"""ROUGE (Lin 2004): n-gram and longest-common-subsequence overlap of a text with a reference.

Tokens, clipping and the F-measure (beta 1) are those of the published reference implementation
without its stemmer: texts in small letters, runs of the letters a to z and of digits. Summary-level
ROUGE-Lsum takes the lines of a text as its sentences and joins their common subsequences (Lin
2004, section 3.2), each token of either text being counted at most once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """The tokens of a text."""
    return WORD.findall(text.lower())


def rouge(candidate: str, reference: str) -> dict[str, float]:
    """The F-measures of a candidate against a reference, each from 0 to 1."""
    ours, theirs = words(candidate), words(reference)
    return {
        "rouge1": overlap(ours, theirs, 1),
        "rouge2": overlap(ours, theirs, 2),
        "rougeL": f_measure(longest_common(ours, theirs), len(ours), len(theirs)),
        "rougeLsum": summary_level(candidate, reference),
    }


def rouge_of(candidates: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """The F-measures (n,) of candidates against their references, by kind."""
    rows = [rouge(*pair) for pair in zip(candidates, references, strict=True)]
    return {kind: np.array([row[kind] for row in rows]) for kind in KINDS}


def f_measure(common: float, ours: int, theirs: int) -> float:
    """The harmonic mean of precision and recall; 0 where there is nothing in common."""
    return 2 * common / (ours + theirs) if common else 0.0


def overlap(ours: Sequence[str], theirs: Sequence[str], size: int) -> float:
    """ROUGE-N: the n-grams in common, each at most as often as it is in both."""
    one, other = (
        Counter(tuple(each[at : at + size]) for at in range(len(each) - size + 1))
        for each in (ours, theirs)
    )
    return f_measure((one & other).total(), one.total(), other.total())


def lengths_of_common(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
    """Lengths (len(ours) + 1, len(theirs) + 1) of the longest common subsequences of prefixes."""
    table = np.zeros((len(ours) + 1, len(theirs) + 1), dtype=np.int32)
    codes = {word: code for code, word in enumerate(dict.fromkeys([*ours, *theirs]))}
    column = np.array([codes[word] for word in theirs], dtype=np.int64)
    for row, word in enumerate(ours, 1):
        above = table[row - 1]
        found = np.where(column == codes[word], above[:-1] + 1, above[1:])
        table[row, 1:] = np.maximum.accumulate(found)
    return table


def longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    return int(lengths_of_common(ours, theirs)[-1, -1])


def common_places(reference: Sequence[str], candidate: Sequence[str]) -> set[int]:
    """The places in ``reference`` of one longest common subsequence, chosen from the end on: where
    a token may be left out of either, it is left out of the candidate only if that is longer."""
    table = lengths_of_common(reference, candidate)
    row, column, found = len(reference), len(candidate), set()
    while row and column:
        if reference[row - 1] == candidate[column - 1]:
            found.add(row - 1)
            row, column = row - 1, column - 1
        elif table[row, column - 1] > table[row - 1, column]:
            column -= 1
        else:
            row -= 1
    return found


def summary_level(candidate: str, reference: str) -> float:
    """ROUGE-Lsum of a candidate."""
    ours = [tokens for line in candidate.split("\n") if line and (tokens := words(line))]
    theirs = [tokens for line in reference.split("\n") if line and (tokens := words(line))]
    if not ours or not theirs:
        return 0.0
    left = [Counter(word for line in each for word in line) for each in (ours, theirs)]
    sizes = [each.total() for each in left]
    hits = 0
    for line in theirs:
        union: set[int] = set()
        for other in ours:
            union |= common_places(line, other)
        for place in sorted(union):
            word = line[place]
            if left[0][word] > 0 and left[1][word] > 0:
                hits += 1
                left[0][word] -= 1
                left[1][word] -= 1
    return f_measure(hits, *sizes)

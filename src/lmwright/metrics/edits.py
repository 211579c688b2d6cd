"""Edits of a text, and how many of those that were wanted a correction makes: precision, recall, F.

An edit is a run of tokens of the text and what stands in its place. Counts and the F-measure with
beta 0.5, by which a wrong correction weighs more than a missed one, are those of Ng et al. 2014 and
of ERRANT (Bryant et al. 2017): without edits of its own a correction has precision 1, where none
were wanted recall 1. Edits are found by ``difflib`` and not by ERRANT's linguistic alignment, so
that figures of the two differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

BETA = 0.5
TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

Edit = tuple[int, int, tuple[str, ...]]
"""The first token that is replaced, the one behind the last, and what stands there instead."""


def tokens(text: str) -> list[str]:
    """Words, with apostrophes inside them, and every other character that shows."""
    return TOKEN.findall(text)


def edits(text: str, other: str) -> set[Edit]:
    """The edits that make ``text`` into ``other``."""
    ours, theirs = tokens(text), tokens(other)
    codes = SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    return {(i, j, tuple(theirs[k:m])) for kind, i, j, k, m in codes if kind != "equal"}


def counts(
    texts: Sequence[str], corrections: Sequence[str], references: Sequence[str]
) -> np.ndarray:
    """Edits (n, 3) of each text: those made that are right, those made, those wanted."""
    table = np.zeros((len(texts), 3))
    for row, (text, made, wanted) in enumerate(zip(texts, corrections, references, strict=True)):
        ours, theirs = edits(text, made), edits(text, wanted)
        table[row] = len(ours & theirs), len(ours), len(theirs)
    return table


def precision(sums: np.ndarray) -> np.ndarray:
    """The share of the edits made that are right, from sums (…, 3)."""
    return share(sums[..., 0], sums[..., 1])


def recall(sums: np.ndarray) -> np.ndarray:
    """The share of the edits wanted that were made, from sums (…, 3)."""
    return share(sums[..., 0], sums[..., 2])


def f_half(sums: np.ndarray) -> np.ndarray:
    """F with beta 0.5, from sums (…, 3)."""
    p, r = precision(sums), recall(sums)
    below = BETA**2 * p + r
    return np.where(below > 0, (1 + BETA**2) * p * r / np.where(below > 0, below, 1.0), 0.0)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A part of a whole; 1 of nothing."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 1.0)

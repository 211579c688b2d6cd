"""Exact match and F1 of answers as SQuAD's official script counts them.

Rajpurkar, Zhang, Lopyrev, Liang 2016, section 6.1; Rajpurkar, Jia, Liang 2018 for questions without
an answer (script of version 2.0).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """The text in small letters, without ASCII punctuation and English articles, single-spaced."""
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def words_of(text: str) -> list[str]:
    """The words of a normalised answer."""
    return normalize_answer(text).split()


def exact(truth: str, answer: str) -> float:
    """1 where the normalised answers are equal, else 0."""
    return float(normalize_answer(truth) == normalize_answer(answer))


def f1(truth: str, answer: str) -> float:
    """The F1 of an answer's words against the true ones.

    Where either has no words (no answer, as a rule) it is 1 if neither has any, else 0.
    """
    wanted, given = words_of(truth), words_of(answer)
    if not wanted or not given:
        return float(wanted == given)
    common = sum((Counter(wanted) & Counter(given)).values())
    return 2 * common / (len(wanted) + len(given))


def references(truths: Sequence[str]) -> list[str]:
    """The answers that count: those of which normalisation leaves something, or "" for none."""
    return [text for text in truths if normalize_answer(text)] or [""]


def best(truths: Sequence[str], answer: str) -> tuple[float, float]:
    """Exact match and F1 of an answer, each against whichever reference is best.

    No references, or an empty answer: the question has no answer, or was given none.
    """
    wanted = references(truths)
    return max(exact(t, answer) for t in wanted), max(f1(t, answer) for t in wanted)

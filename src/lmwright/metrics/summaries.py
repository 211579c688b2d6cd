"""What a summary takes from its text: extractive coverage and density, compression, consistency."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lmwright.metrics.rouge import words

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][\w'’-]+", re.MULTILINE)
"""A word with a capital that begins no sentence: about what a name is, in languages that write
common nouns small."""


def fragments(summary: Sequence[str], text: Sequence[str]) -> list[int]:
    """Lengths of the fragments that a summary shares with its text, longest first at each token
    (Grusky et al. 2018, figure 3)."""
    places: dict[str, list[int]] = {}
    for place, word in enumerate(text):
        places.setdefault(word, []).append(place)
    found, at = [], 0
    while at < len(summary):
        best = 0
        for place in places.get(summary[at], ()):
            size = 1
            while (
                at + size < len(summary)
                and place + size < len(text)
                and summary[at + size] == text[place + size]
            ):
                size += 1
            best = max(best, size)
        if best:
            found.append(best)
        at += max(best, 1)
    return found


def extraction(summary: str, text: str) -> dict[str, float]:
    """What a summary takes from its text (Grusky et al. 2018, section 3).

    ``extractive_coverage`` is the share of its words in fragments of the text,
    ``extractive_density`` the mean length of the fragment that a word stands in, ``compression``
    the words of the text a word of the summary.
    """
    ours, theirs = words(summary), words(text)
    count = max(len(ours), 1)
    found = np.array(fragments(ours, theirs), dtype=float)
    return {
        "extractive_coverage": float(found.sum()) / count,
        "extractive_density": float((found**2).sum()) / count,
        "compression": len(theirs) / count,
    }


def unsupported(summary: str, text: str) -> tuple[int, int]:
    """How many numbers and names of a summary its text does not have, and how many there are.

    A check of facts by overlap alone: a summary that puts the right names into a wrong sentence
    passes it.
    """
    claims = {*NUMBER.findall(summary), *(name.lower() for name in NAME.findall(summary))}
    known = {*NUMBER.findall(text), *(word.lower() for word in re.findall(r"[\w'’-]+", text))}
    return len(claims - known), len(claims)

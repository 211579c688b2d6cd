"""Texts as baselines read them: words between spaces, with their places and hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Words:
    """A text as its words: their hashes, and where each stands."""

    text: str
    places: list[tuple[int, int]]
    ids: np.ndarray

    @property
    def cost(self) -> int:
        """Number of words, at least 1."""
        return max(1, len(self.places))


def words_in(text: str) -> Words:
    """A text's words."""
    places = words_of(text)
    hashes = [hash_of(text[start:end]) for start, end in places]
    return Words(text, places, np.array(hashes or [0], dtype=np.int64))


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each word between spaces."""
    found, place = [], 0
    for word in text.split(" "):
        if word:
            found.append((place, place + len(word)))
        place += len(word) + 1
    return found


def hash_of(word: str) -> int:
    """A number below 2**31 of a word, the same in every process."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") >> 1

"""SentencePiece's map of characters, applied as SentencePiece applies it.

The map is a trie of byte strings (a double array, as darts-clone packs it) with the text that
replaces each; at every place of a text the longest entry that matches is replaced. The
``Precompiled`` normalizer of the tokenizers library takes the shortest and works on grapheme
clusters, so that some combining marks vanish; hence this one.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache

import numpy as np

MOST_NODES = 1_000_000
"""Some four times what SentencePiece's own maps have."""


class Charsmap:
    """A map from short strings to their replacements, the longest match first."""

    def __init__(self, entries: dict[str, str]) -> None:
        self.entries = entries
        self.longest = max(map(len, entries), default=0)
        self.single = {ord(key): value for key, value in entries.items() if len(key) == 1}
        later = {character for key in entries for character in key[1:]}
        # Where no character of the text can continue an entry, characters are mapped one by one.
        self.continues = re.compile(f"[{re.escape(''.join(sorted(later)))}]") if later else None

    def apply(self, text: str) -> str:
        """The text with every longest match replaced, from left to right."""
        if self.continues is None or not self.continues.search(text):
            return text.translate(self.single)
        pieces = []
        place = 0
        while place < len(text):
            for length in range(min(self.longest, len(text) - place), 0, -1):
                found = self.entries.get(text[place : place + length])
                if found is not None:
                    pieces.append(found)
                    place += length
                    break
            else:
                pieces.append(text[place])
                place += 1
        return "".join(pieces)


@lru_cache(maxsize=8)
def read_charsmap(data: bytes) -> Charsmap:
    """The map of a ``precompiled_charsmap``; ValueError if the bytes are not one."""
    (size,) = struct.unpack_from("<I", data) if len(data) >= 4 else (0,)
    if size % 4 or not 4 <= size <= len(data) - 4:
        raise ValueError("the map of characters is cut short")
    units = np.frombuffer(data, dtype="<u4", count=size // 4, offset=4).astype(np.int64)
    texts = data[4 + size :]
    entries = {}
    for key, place in keys_of(units):
        end = texts.find(b"\0", place)
        if end < 0:
            raise ValueError("an entry of the map of characters is cut short")
        entries[key.decode("utf-8")] = texts[place:end].decode("utf-8")
    return Charsmap(entries)


def keys_of(units: np.ndarray) -> list[tuple[bytes, int]]:
    """Every key of the double array with its value."""
    letters = np.arange(1, 256)
    found: list[tuple[bytes, int]] = []
    todo = [(b"", offset(int(units[0])))]
    for key, base in todo:
        places = base ^ letters
        inside = places < len(units)
        places, labels = places[inside], letters[inside]
        children = units[places]
        # The label and the bit that marks a value, which no letter has.
        fits = (children & 0x800000FF) == labels
        for label, unit, place in zip(
            labels[fits].tolist(), children[fits].tolist(), places[fits].tolist(), strict=True
        ):
            longer = key + bytes([label])
            below = place ^ offset(unit)
            if unit >> 8 & 1:
                if below >= len(units):
                    raise ValueError("the map of characters points outside itself")
                found.append((longer, int(units[below]) & 0x7FFFFFFF))
            todo.append((longer, below))
        if len(todo) > MOST_NODES:
            raise ValueError("the map of characters has no end")
    return found


def offset(unit: int) -> int:
    """The offset of a unit's children, relative to it."""
    return unit >> 10 << ((unit & 0x200) >> 6)

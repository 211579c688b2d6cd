"""Speculation by prompt look-up: tokens that followed the last ones before are read ahead.

What was drafted is kept as far as it is what the model writes anyway, so the text is unchanged; a
step then gives several tokens (Leviathan et al. 2023; look-up in the prompt: Saxena 2023). Whether
that pays depends on the machine, the model and the text, so it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_ROWS = 16
"""Tokens that a step reads with drafts, of all texts together: more take their own time."""
LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""Of the last tokens so many have to stand before; the longest match is taken first."""
KEPT = 0.9
"""Of an average, how much stays of what was before."""
AGAIN = 64
"""After so many steps what did not pay is tried again."""


def look_up(ids: np.ndarray, most: int) -> np.ndarray:
    """At most so many tokens: those after the latest earlier place where the last ones stand."""
    for size in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
        if len(ids) <= size:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
        places = np.flatnonzero((runs == ids[-size:]).all(axis=1))
        if len(places):
            begin = int(places[-1]) + size
            return ids[begin : begin + most]
    return ids[:0]


class Pays:
    """Whether drafts pay for a model here: seconds of steps by the tokens that they read, and the
    share of drafted tokens that were kept."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.share = 0.5
        self.drafted = self.accepted = self.waited = 0

    def took(self, rows: int, seconds: float) -> None:
        """Take note of a step."""
        before = self.seconds.get(rows, seconds)
        self.seconds[rows] = KEPT * before + (1 - KEPT) * seconds

    def kept(self, drafted: int, accepted: int) -> None:
        """Take note of drafts."""
        self.drafted, self.accepted = self.drafted + drafted, self.accepted + accepted
        self.share = KEPT * self.share + (1 - KEPT) * accepted / drafted

    def drafts(self, texts: int, found: Sequence[int]) -> bool:
        """Whether to read drafts of these lengths beside the last token of each text."""
        rows = texts + sum(found)
        if rows == texts:
            return False
        plain, longer = self.seconds.get(texts), self.seconds.get(rows)
        if plain is None or self.waited >= AGAIN:
            self.waited = 0
            return plain is not None  # what a step takes without drafts is to be known first
        gain = (texts + self.share * sum(found)) / texts
        if longer is None or longer <= gain * plain:
            return True
        self.waited += 1
        return False

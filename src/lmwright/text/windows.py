"""Windows over texts that are longer than a model reads at once: where they lie, and which of them
answers for a token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Stretch = tuple[int, int]
"""The first token of a text that a window reads, and how many."""


def stretches(count: int, room: int, stride: int) -> list[Stretch]:
    """Windows of at most ``room`` tokens over all ``count`` of a text, in order.

    Neighbours share ``stride`` tokens, which are fewer than ``room``.
    """
    found = [(0, min(count, room))]
    while (end := sum(found[-1])) < count:
        first = end - stride
        found.append((first, min(room, count - first)))
    return found


def central(windows: Sequence[Stretch]) -> list[np.ndarray]:
    """For each window, which (bool) of its tokens have most context in it.

    As the published ``run_squad.py``: the fewer of the tokens to the left and to the right, and a
    hundredth of the window's length; of equals the first window.
    """
    total = max(first + size for first, size in windows)
    best, of = np.full(total, -1.0), np.full(total, -1)
    for number, (first, size) in enumerate(windows):
        place = np.arange(size)
        score = np.minimum(place, size - 1 - place) + 0.01 * size
        at = slice(first, first + size)
        better = score > best[at]
        best[at] = np.where(better, score, best[at])
        of[at] = np.where(better, number, of[at])
    return [of[first : first + size] == number for number, (first, size) in enumerate(windows)]

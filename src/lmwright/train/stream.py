"""Batches of one long stream of documents: stretches of the same number of tokens in every step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lmwright.data.shards import Shards
from lmwright.train.batches import UNLEARNT, WHOLE, Example, Share, shuffled


@dataclass(frozen=True)
class StreamBatches:
    """``size`` stretches a step of ``length`` tokens each, in a new order at every pass.

    A stretch that goes across the end of a document is several examples, as no token reads another
    document. Every token but the first of a document is learnt once in a pass: what follows the
    last token of a stretch is its target too. A step's bits depend on seed and step alone.
    """

    shards: Shards
    length: int
    size: int
    steps: int
    seed: int

    @property
    def stretches(self) -> int:
        """The number of stretches; the last one may be shorter."""
        return -(-len(self.shards) // self.length)

    def at(self, step: int, network: Any = None, share: Share = WHOLE) -> list[Example]:
        """A share of the examples of a step, counted from 0."""
        if step >= self.steps:
            return []
        found = []
        for number in range(step * self.size, (step + 1) * self.size)[share.of(self.size)]:
            turn, place = divmod(number, self.stretches)
            found += self.stretch(int(shuffled(self.stretches, self.seed, turn)[place]))
        return found

    def stretch(self, place: int) -> list[Example]:
        """The examples of one stretch, each named by where it begins in the stream."""
        first = place * self.length
        end = min(first + self.length, len(self.shards))
        ids = self.shards.ids(first, min(end + 1, len(self.shards)))
        starts = self.shards.starts
        inside = starts[np.searchsorted(starts, first, "right") : np.searchsorted(starts, end)]
        edges = [first, *inside.tolist(), end]
        ended = {*inside.tolist(), *([end] if self.ends(end) else [])}
        found = []
        for begin, stop in pairwise(edges):
            target = np.full(stop - begin, UNLEARNT, dtype=np.int64)
            more = stop - begin - (stop in ended)
            target[:more] = ids[begin - first + 1 : begin - first + 1 + more]
            if more:
                found.append(Example(ids[begin - first : stop - first], begin, target))
        return found

    def ends(self, place: int) -> bool:
        """Whether a document ends before a place of the stream."""
        starts = self.shards.starts
        return bool(starts[np.searchsorted(starts, place)] == place)

    def hash(self) -> str:
        """A digest of the shards, the stretches and their order."""
        told = f"{self.shards.hash()} {self.length} {self.size} {self.steps} {self.seed}"
        return hashlib.sha256(told.encode()).hexdigest()

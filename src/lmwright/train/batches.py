"""Which examples a step sees: a function of seed and step, so that resuming needs no state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lmwright.core.random import stream


@dataclass(frozen=True)
class Example:
    """One document as ids, the number that keys its dropout, and what is to be learnt of it.

    ``target`` is a class, or one a token (-100 where nothing is to be learnt), or numbers.
    ``beside`` are further documents that stay with it: the source of a target, say.
    """

    tokens: np.ndarray
    document: int
    target: int | np.ndarray
    beside: tuple[np.ndarray, ...] = ()

    @property
    def cost(self) -> int:
        """How many tokens it is, with what stays with it."""
        return len(self.tokens) + sum(map(len, self.beside))


@dataclass(frozen=True)
class Batches:
    """Examples in a new order every epoch, ``size`` documents a step, none left out."""

    examples: Sequence[Example]
    size: int
    epochs: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch; the last one may be smaller."""
        return -(-len(self.examples) // self.size)

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.per_epoch * self.epochs

    def at(self, step: int) -> list[Example]:
        """The examples of a step, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        order = shuffled(len(self.examples), self.seed, epoch)
        return [self.examples[j] for j in order[place * self.size : (place + 1) * self.size]]

    def hash(self) -> str:
        """A digest of everything that is learnt from, so that a checkpoint can tell other data."""
        digest = hashlib.sha256(f"{self.size} {self.epochs} {self.seed}".encode())
        for example in self.examples:
            digest.update(f"{example.document} ".encode())
            target = np.asarray(example.target)
            digest.update(target.astype("<f8" if target.dtype.kind == "f" else "<i8").tobytes())
            for ids in (example.tokens, *example.beside):
                digest.update(np.asarray(ids, dtype="<i8").tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=2)
def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch's examples, kept so that a step's cost does not grow with the data."""
    return stream(seed, "order", epoch).permutation(count)

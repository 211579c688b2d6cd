"""Which examples a step sees: a function of seed and step, so that resuming needs no state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, overload

import numpy as np

from lmwright.core.random import stream

UNLEARNT = -100
"""The target of a token that nothing is learnt of (torch's default ``ignore_index``)."""

KEYS = 1 << 128
"""Numbers that key the dropout are below this."""


@dataclass(frozen=True)
class Example:
    """One document as ids, the number that keys its dropout, and what is to be learnt of it.

    ``target`` is a class, or one a token (:data:`UNLEARNT` where nothing is learnt), or numbers.
    ``beside`` are documents that stay with it in every batch: the source of a target, the passages
    of a question, the rejected answer of a chosen one. ``segments`` (below 256, one a token) tell
    the texts of a pair apart, for models that read them. ``cut`` says that something of it was too
    long and left out; it is no part of what is stored.
    """

    tokens: np.ndarray
    document: int
    target: int | np.ndarray = UNLEARNT
    beside: tuple[Example, ...] = ()
    segments: np.ndarray | None = None
    cut: bool = False

    @property
    def cost(self) -> int:
        """Number of tokens, with those of the documents beside it."""
        return len(self.tokens) + sum(each.cost for each in self.beside)


@dataclass(frozen=True)
class Share:
    """Part ``place`` of the ``count`` parts of a step: what one process reads in one pass."""

    place: int = 0
    count: int = 1

    def of(self, size: int) -> slice:
        """The part's items of ``size``: a run of them, at most one longer than another part's."""
        return slice(*(size * end // self.count for end in (self.place, self.place + 1)))


WHOLE = Share()


class Batches(Protocol):
    """The examples of every step; ``seed`` keys the dropout."""

    @property
    def seed(self) -> int: ...

    @property
    def steps(self) -> int | None:
        """Number of steps, None where that is not known beforehand."""

    def at(self, step: int, network: Any, share: Share = WHOLE) -> Sequence[Example]:
        """A share of the examples of a step, counted from 0; none at all after the last step.

        ``network`` is the one in training, for batches that it makes itself.
        """

    def hash(self) -> str:
        """A digest of what is learnt from, so that a checkpoint can tell other data."""


@dataclass(frozen=True)
class EpochBatches:
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

    def at(self, step: int, network: Any = None, share: Share = WHOLE) -> list[Example]:
        """A share of the examples of a step, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        order = shuffled(len(self.examples), self.seed, epoch)
        batch = order[place * self.size : (place + 1) * self.size]
        return [self.examples[j] for j in batch[share.of(len(batch))]]

    def hash(self) -> str:
        """A digest of all examples, their order and the size of a batch."""
        return digest(self.examples, f"{self.size} {self.epochs} {self.seed}")


@dataclass(frozen=True)
class Chosen(Sequence[Example]):
    """Some of many examples, one or more times each, by their places (n,)."""

    examples: Sequence[Example]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self.examples[each] for each in self.places[place]]
        return self.examples[self.places[place]]


def resampled(strata: Sequence[str], more: bool, seed: int) -> np.ndarray:
    """Places (n,) of rows such that all strata have as many, ascending.

    With ``more`` as many as the largest has, by rows that stand several times; else as many as the
    smallest has. Which rows, is drawn from ``seed``.
    """
    names, codes = np.unique(np.asarray(strata), return_inverse=True)
    sizes = np.bincount(codes)
    wanted, found = int(sizes.max() if more else sizes.min()), []
    for place, name in enumerate(names):
        order = stream(seed, "resample", str(name)).permutation(np.flatnonzero(codes == place))
        found.append(np.resize(order, wanted))
    return np.sort(np.concatenate(found))


def digest(examples: Iterable[Example], settings: str = "") -> str:
    """The SHA-256 of examples and settings, in hexadecimal."""
    found = hashlib.sha256(settings.encode())

    def add(example: Example) -> None:
        found.update(f"{example.document} ".encode())
        target = np.asarray(example.target)
        found.update(target.astype("<f8" if target.dtype.kind == "f" else "<i8").tobytes())
        found.update(np.asarray(example.tokens, dtype="<i8").tobytes())
        if example.segments is not None:
            found.update(b"segments" + np.asarray(example.segments, dtype="u1").tobytes())
        for each in example.beside:
            add(each)

    for example in examples:
        add(example)
    return found.hexdigest()


@lru_cache(maxsize=16)
def shuffled(count: int, seed: int, epoch: int, name: str = "order") -> np.ndarray:
    """The order of an epoch's examples, kept so that a step's cost does not grow with the data;
    those of other names are other ones."""
    return stream(seed, name, epoch).permutation(count)

"""Near duplicates among a million rows in bounded memory: MinHash, bands on disk, union-find.

Broder 1997 (resemblance and MinHash); Leskovec, Rajaraman, Ullman, *Mining of Massive
Datasets*, chapter 3 (banding). A row's shingles are its pairs of neighbouring words, lower
case, punctuation aside (a row of one word: that word; in scripts without spaces every
character counts as a word). Two rows are near duplicates when the Jaccard similarity of their
sets of shingles reaches the threshold; candidates come from the bands and each is verified on
the sets themselves, so there are no false pairs, and few are missed (:func:`plan_bands`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lmwright.core.random import stream

BAND_ROWS = 4
"""Hashes in a band."""

MISSED = 0.002
"""Probability, at the threshold itself, that no band brings a pair together."""

WINDOW = 16
"""Neighbours within a bucket that a row is compared with, so that big buckets stay linear."""

PIECE = 1 << 13
"""Shingles hashed at a time: what fits into a core's cache under all permutations."""


class NearDuplicates:
    """Texts go in with :meth:`add`, groups come out of :meth:`groups`.

    Memory: 16 bytes a row between calls, at most 48 while grouping. On disk, in ``folder``:
    8 bytes a row for each band, 4 bytes for each shingle.
    """

    def __init__(self, folder: Path, threshold: float = 0.7, seed: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.threshold = folder, threshold
        self.bands = plan_bands(threshold)
        rng = stream(seed, "minhash")
        count = self.bands * BAND_ROWS
        self.factors = rng.integers(0, 1 << 31, (count, 1), dtype=np.uint32) * np.uint32(2) + 1
        self.offsets = rng.integers(0, 1 << 32, (count, 1), dtype=np.uint32)
        self.mixers = rng.integers(1, 1 << 63, (BAND_ROWS,), dtype=np.uint64) * np.uint64(2) + 1
        self.files = [(folder / f"band-{band:02}").open("wb") for band in range(self.bands)]
        self.shingles = (folder / "shingles").open("wb")
        self.sizes: list[np.ndarray] = []

    def add(self, texts: Sequence[str]) -> None:
        """Take the next rows; memory is some 80 bytes for each character of them."""
        values, sizes = shingle_sets(texts)
        self.sizes.append(sizes.astype(np.int32))
        self.shingles.write(values.tobytes())
        signatures = self.signatures(values, sizes)
        for band, file in enumerate(self.files):
            rows = signatures[band * BAND_ROWS : (band + 1) * BAND_ROWS].astype(np.uint64)
            mixed = (rows * self.mixers[:, None]).sum(0, dtype=np.uint64)
            file.write((mixed ^ (mixed >> np.uint64(29))).tobytes())

    def signatures(self, values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """MinHash of each row under each permutation: uint32 (permutations, rows).

        A permutation is x -> a·x + b modulo 2^32 with odd a, over hashed shingles.
        """
        found = np.full((len(self.factors), len(sizes)), 0xFFFFFFFF, np.uint32)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        row = 0
        while row < len(sizes):
            after = max(row + 1, int(np.searchsorted(ends, starts[row] + PIECE, "right")))
            part = values[starts[row] : ends[after - 1]]
            if len(part):
                full = np.flatnonzero(sizes[row:after]) + row
                hashed = self.factors * part + self.offsets
                lowest = np.minimum.reduceat(hashed, starts[full] - starts[row], axis=1)
                found[:, full] = lowest
            row = after
        return found

    def groups(self, order: np.ndarray | None = None) -> np.ndarray:
        """The group of each row: int32 (rows,), the smallest row of its group.

        Rows without any word are alone. ``order`` (a rank of each row that does not depend on
        their sequence) makes the answer independent of the order of arrival, even where a
        bucket is larger than the window.
        """
        self.close()
        sizes = np.concatenate(self.sizes) if self.sizes else np.zeros(0, np.int32)
        starts = np.cumsum(sizes, dtype=np.int64) - sizes
        parent = np.arange(len(sizes), dtype=np.int32)
        handle = os.open(self.folder / "shingles", os.O_RDONLY)
        try:
            for band in range(self.bands):
                path = self.folder / f"band-{band:02}"
                for one, two in candidates(path, sizes, order):
                    parent = self.join(parent, one, two, handle, starts, sizes)
                path.unlink()
        finally:
            os.close(handle)
        (self.folder / "shingles").unlink()
        return roots(parent)

    def close(self) -> None:
        """Finish the files; nothing can be added afterwards."""
        for file in [*self.files, self.shingles]:
            file.close()

    def join(
        self,
        parent: np.ndarray,
        one: np.ndarray,
        two: np.ndarray,
        handle: int,
        starts: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        """Unite the candidates that are near duplicates and not yet in one group."""
        shared = np.minimum(sizes[one], sizes[two]) >= self.threshold * np.maximum(
            sizes[one], sizes[two]
        )
        one, two = one[shared], two[shared]
        for part in range(0, len(one), 1 << 13):
            first, second = one[part : part + (1 << 13)], two[part : part + (1 << 13)]
            parent = roots(parent) if part % (1 << 16) == 0 else parent
            apart = parent[first] != parent[second]
            first, second = first[apart], second[apart]
            alike = jaccard(handle, starts, sizes, first, second) >= self.threshold
            unite(parent, first[alike], second[alike])
        return roots(parent)


def plan_bands(threshold: float) -> int:
    """Bands needed so that a pair at the threshold is missed with probability ``MISSED``.

    A pair of similarity s meets in a band of r rows with probability s^r, so in none of b
    bands with (1 - s^r)^b (Mining of Massive Datasets, section 3.4.2).
    """
    return int(np.ceil(np.log(MISSED) / np.log1p(-(threshold**BAND_ROWS))))


def candidates(
    path: Path, sizes: np.ndarray, order: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows that share a bucket of the band, at most WINDOW apart in it."""
    hashes = np.fromfile(path, np.uint64)
    if order is None:
        rows = np.argsort(hashes, kind="stable").astype(np.int32)
    else:
        rows = np.lexsort((order, hashes)).astype(np.int32)
    hashes = hashes[rows]
    for distance in range(1, WINDOW):
        same = np.flatnonzero(hashes[distance:] == hashes[:-distance])
        if not len(same):
            return
        one, two = rows[same], rows[same + distance]
        some = (sizes[one] > 0) & (sizes[two] > 0)
        yield one[some], two[some]


def jaccard(
    handle: int, starts: np.ndarray, sizes: np.ndarray, one: np.ndarray, two: np.ndarray
) -> np.ndarray:
    """Jaccard similarity of the stored shingle sets of rows ``one`` and ``two``: (pairs,)."""
    similarity = np.empty(len(one))
    per = max(1, (1 << 20) // int(max(sizes[one].max(initial=1), sizes[two].max(initial=1))))
    for part in range(0, len(one), per):
        rows = np.concatenate([one[part : part + per], two[part : part + per]])
        sides = [
            np.frombuffer(os.pread(handle, size * 4, start * 4), np.uint32)
            for size, start in zip(sizes[rows].tolist(), starts[rows].tolist(), strict=True)
        ]
        pairs = len(rows) // 2
        owner = np.tile(np.arange(pairs, dtype=np.uint64), 2).repeat(sizes[rows])
        keys = np.sort((owner << np.uint64(32)) | np.concatenate(sides))
        twice = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
        common = np.bincount(twice.astype(np.int64), minlength=pairs)
        both = sizes[rows[:pairs]] + sizes[rows[pairs:]]
        similarity[part : part + pairs] = common / (both - common)
    return similarity


def unite(parent: np.ndarray, one: np.ndarray, two: np.ndarray) -> None:
    """Union by smaller root, with path halving (Tarjan and van Leeuwen 1984)."""
    for first, second in zip(one.tolist(), two.tolist(), strict=True):
        a, b = root(parent, first), root(parent, second)
        if a != b:
            parent[max(a, b)] = min(a, b)


def root(parent: np.ndarray, row: int) -> int:
    """The root of one row; the path to it is halved."""
    while (above := int(parent[row])) != row:
        parent[row] = parent[above]
        row = int(parent[row])
    return row


def roots(parent: np.ndarray) -> np.ndarray:
    """The root of every row."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


def shingle_sets(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashed sets of word pairs of each text: values uint32, flat and sorted in a row; sizes."""
    words, owners = word_hashes(texts)
    counts = np.bincount(owners, minlength=len(texts))
    pair = words[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[1:] * np.uint64(0xC2B2AE3D27D4EB4F)
    together = owners[1:] == owners[:-1]
    lonely = counts[owners] == 1
    values = fold(np.concatenate([pair[together], words[lonely]]))
    belongs = np.concatenate([owners[1:][together], owners[lonely]])
    keys = np.sort((belongs.astype(np.uint64) << np.uint64(32)) | values)
    keys = keys[np.flatnonzero(np.diff(keys, prepend=~keys[:1]))]
    sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return keys.astype(np.uint32), sizes


def fold(values: np.ndarray) -> np.ndarray:
    """Well mixed 32 bits of 64 (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (values ^ (values >> np.uint64(31))) >> np.uint64(32)


LETTERS = np.zeros(256, bool)
LETTERS[[*range(48, 58), *range(97, 123), *range(128, 256)]] = True
"""Bytes of lower-cased UTF-8 that belong to words: digits, letters, all beyond ASCII."""

SCRIPTS = 0xE3
"""First bytes from here on begin characters of scripts without spaces, and pictures."""

BASE = 0x100000001B3
INVERSE = pow(BASE, -1, 1 << 64)


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A 64-bit polynomial hash of every word of every text, and the text it stands in.

    With prefix sums of byte·BASE^position, a word's hash is the difference of two sums moved
    to position nought; no loop over words is needed.
    """
    data = [text.lower().encode() for text in texts]
    lengths = np.array([len(piece) + 1 for piece in data], np.int64)
    flat = np.frombuffer(b" ".join([*data, b""]), np.uint8)
    inside = LETTERS[flat]
    begins = inside & ~np.concatenate([[False], inside[:-1]])
    begins |= flat >= SCRIPTS
    starts = np.flatnonzero(begins)
    ends_at = np.flatnonzero(~inside)
    ends = ends_at[np.searchsorted(ends_at, starts)] if len(starts) else starts
    ends = np.minimum(ends, np.append(starts[1:], len(flat)))
    sums = np.zeros(len(flat) + 1, np.uint64)
    np.cumsum(TABLE[flat] * powers(BASE, len(flat)), out=sums[1:])
    words = (sums[ends] - sums[starts]) * powers(INVERSE, len(flat))[starts]
    owners = np.searchsorted(np.cumsum(lengths), starts, "right")
    return words, owners


TABLE = stream(0, "bytes of words").integers(1, 1 << 63, 256, dtype=np.uint64)


def powers(base: int, count: int) -> np.ndarray:
    """base^0 … base^(count-1) modulo 2^64, by doubling."""
    found = np.ones(max(count, 1), np.uint64)
    filled = 1
    while filled < count:
        more = min(filled, count - filled)
        found[filled : filled + more] = found[:more] * np.uint64(pow(base, filled, 1 << 64))
        filled += more
    return found

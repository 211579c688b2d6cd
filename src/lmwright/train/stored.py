"""Examples in files, read through the page cache: training data need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from lmwright.train.batches import Example

DOCUMENT = np.dtype(
    [
        ("start", "<i8"),  # of its tokens among all tokens
        ("length", "<i4"),
        ("target", "<i8"),  # where its target starts among all of that kind, or the class itself
        ("size", "<i4"),  # of the target, -1 for a class
        ("kind", "u1"),  # of the target's numbers: 0 integers, 1 floats
        ("high", "<u8"),
        ("low", "<u8"),  # the two halves of the number that keys its dropout
        ("beside", "<i4"),  # how many of the documents behind it stay with it
        ("segments", "<i8"),  # where those of its tokens start among all segments, -1 for none
    ]
)
"""A document's row in the index. What stays with an example stands right behind it."""
HALF = 1 << 64
FILES = ("tokens.bin", "integers.bin", "floats.bin", "segments.bin")


class StoredExamples(Sequence[Example]):
    """Examples written to a folder once, and read one at a time; only the index is held."""

    def __init__(self, folder: Path, parts: Iterable[Sequence[Example]]) -> None:
        """Write the examples of all parts into the folder, which is to be empty or of a former
        run; it is scratch space, made again after a kill."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in FILES]
        files = [path.open("wb") for path in paths]
        rows: list[np.ndarray] = []
        try:
            writer = Writer(files)
            for part in parts:
                rows.append(np.array([row for each in part for row in writer.rows(each)], DOCUMENT))
        finally:
            for file in files:
                file.close()
        self.documents = np.concatenate(rows) if rows else np.zeros(0, DOCUMENT)
        self.begins = firsts(self.documents["beside"])
        self.tokens = mapped(paths[0], "<i4")
        self.targets = mapped(paths[1], "<i8"), mapped(paths[2], "<f8")
        self.segments = mapped(paths[3], "u1")

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return self.example(int(self.begins[place]))[0]

    def example(self, at: int) -> tuple[Example, int]:
        """The example whose index row is ``at``, and the row behind it."""
        row, at = self.documents[at], at + 1
        beside = []
        for _ in range(row["beside"]):
            each, at = self.example(at)
            beside.append(each)
        start, target = int(row["start"]), int(row["target"])
        found: int | np.ndarray = target
        if row["size"] >= 0:
            found = np.array(self.targets[row["kind"]][target : target + row["size"]])
        ids = self.tokens[start : start + row["length"]].astype(np.int64)
        segments, first = None, int(row["segments"])
        if first >= 0:
            segments = self.segments[first : first + row["length"]].astype(np.int64)
        name = int(row["high"]) * HALF + int(row["low"])
        return Example(ids, name, found, tuple(beside), segments), at


class Writer:
    """The open files of tokens, integer targets, float targets and segments, and how long each
    is."""

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        self.files, self.ends = files, [0] * len(files)

    def rows(self, example: Example) -> list[tuple[int, ...]]:
        """Write an example; the rows of it and of what stays with it."""
        start = self.add(0, np.asarray(example.tokens, "<i4"))
        if np.ndim(example.target):
            numbers = np.asarray(example.target)
            kind = int(numbers.dtype.kind == "f")
            size = len(numbers)
            target = self.add(1 + kind, numbers.astype("<f8" if kind else "<i8"))
        else:
            kind, size, target = 0, -1, int(example.target)
        name = divmod(example.document, HALF)
        segments = -1
        if example.segments is not None:
            segments = self.add(3, np.asarray(example.segments, "u1"))
        row = (start, len(example.tokens), target, size, kind, *name, len(example.beside), segments)
        return [row, *(found for each in example.beside for found in self.rows(each))]

    def add(self, file: int, numbers: np.ndarray) -> int:
        """Append numbers to a file; where they start."""
        start = self.ends[file]
        self.files[file].write(numbers.tobytes())
        self.ends[file] += len(numbers)
        return start


def firsts(beside: np.ndarray) -> np.ndarray:
    """The index rows (n,) at which an example begins, from how many stay with each document."""
    found, at = [], 0

    def behind(at: int) -> int:
        end = at + 1
        for _ in range(beside[at]):
            end = behind(end)
        return end

    while at < len(beside):
        found.append(at)
        at = behind(at) if beside[at] else at + 1
    return np.array(found, dtype=np.int64)


def mapped(path: Path, dtype: str) -> np.ndarray:
    """A file's numbers, mapped into memory; an empty array for an empty file."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")

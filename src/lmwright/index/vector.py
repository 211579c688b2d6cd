"""An index of vectors: exact search by cosine, in the process."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lmwright.core.durable import sync_file, write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import read_json_object
from lmwright.index.entries import Entries, Filter, Hit

DESCRIPTION = "index.json"
VECTORS = "vectors.safetensors"
ROOM = 1024
"""Entries for which there is room at first; it doubles when it is full."""


class VectorIndex:
    """Vectors (n, width) at length 1, float32, with an id and columns each."""

    kind: ClassVar[str] = "vector"

    def __init__(self, width: int) -> None:
        if width < 1:
            raise BadInput(f"vectors of {width} numbers", "at least 1")
        self.width = width
        self.entries = Entries()
        self._room = np.zeros((0, width), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def vectors(self) -> np.ndarray:
        """The vectors (n, width), in the order in which they were added."""
        return self._room[: len(self)]

    def add(
        self, ids: Sequence[str], vectors: np.ndarray, columns: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add entries by their vectors (m, width) of any length but 0; columns are JSON values.

        BadInput for an id that is there already, and for vectors of another width or without a
        direction; nothing is added then.
        """
        if len(ids) != len(vectors):
            raise BadInput(f"{len(ids)} ids and {len(vectors)} vectors", "as many")
        fresh, before = self.directions(vectors), len(self)
        self.entries.add(ids, columns)
        if len(self) > len(self._room):
            grown = np.zeros((max(ROOM, len(self), 2 * len(self._room)), self.width), np.float32)
            grown[:before] = self._room[:before]
            self._room = grown
        self._room[before : len(self)] = fresh

    def forget(self, ids: Collection[str]) -> int:
        """Remove the entries with these ids, as far as they are there; how many were."""
        before = self.vectors
        stays = self.entries.forget(ids)
        self._room = before[stays]
        return int((~stays).sum())

    def search(
        self, queries: np.ndarray, most: int = 10, where: Filter | None = None
    ) -> list[list[Hit]]:
        """The ``most`` nearest entries by cosine to each query (m, width), the nearest first.

        ``where`` leaves only the entries that have these columns; of equals the one added earlier
        stands first.
        """
        asked = self.directions(queries)
        among = self.entries.matching(where or {})
        known = self.vectors[among] if where else self.vectors
        return [self.entries.best(known @ query, among, most) for query in asked]

    def directions(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (m, width) at length 1, float32; BadInput for those that have no direction."""
        given = np.asarray(vectors, dtype=np.float32)
        if given.ndim != 2 or given.shape[1] != self.width:
            raise BadInput(f"vectors of shape {given.shape}", f"of {self.width} numbers each")
        lengths = np.sqrt(np.square(given.astype(np.float64)).sum(-1, keepdims=True))
        if not np.isfinite(lengths).all() or not (lengths > 0).all():
            raise BadInput("a vector of no or no finite length", "vectors with a direction")
        return (given / lengths).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write ``index.json`` and ``vectors.safetensors``; the same index, the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / VECTORS
        save_file({"vectors": np.ascontiguousarray(self.vectors)}, path)
        sync_file(path)
        entries = self.entries.to_json()
        write_json(
            folder / DESCRIPTION, {"kind": self.kind, "width": self.width, "entries": entries}
        )

    @classmethod
    def load(cls, folder: Path) -> VectorIndex:
        """The index that :meth:`save` wrote; Corrupt if it is not whole."""
        said = read_json_object(folder / DESCRIPTION)
        width = said.get("width")
        if said.get("kind") != cls.kind or not isinstance(width, int) or width < 1:
            raise Corrupt(f"{folder / DESCRIPTION} is not whole", "an index of vectors")
        found = cls(width)
        found.entries = Entries.read(said.get("entries"), str(folder / DESCRIPTION))
        try:
            vectors = load_file(folder / VECTORS)["vectors"]
        except (OSError, KeyError, SafetensorError) as fault:
            raise Corrupt(f"{folder / VECTORS} cannot be read ({fault})") from fault
        if vectors.shape != (len(found), width) or vectors.dtype != np.float32:
            raise Corrupt(
                f"{folder / VECTORS} has vectors {vectors.shape}", f"({len(found)}, {width})"
            )
        found._room = vectors
        return found

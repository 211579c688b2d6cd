"""What an index keeps of its entries beside vectors or words: ids and columns, and filters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput, Corrupt

Filter = Mapping[str, Any]
"""Column -> the value that an entry must have, or a list of which it must have one."""


@dataclass(frozen=True)
class Hit:
    """An entry that was found, and how near it is: higher is nearer."""

    id: str
    score: float
    columns: Mapping[str, Any]


@dataclass
class Entries:
    """Ids, each once, and JSON columns of entries, in the order in which they were added."""

    ids: list[str] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> None:
        """Append entries; BadInput for an id that is there already or stands twice."""
        if len(ids) != len(columns):
            raise BadInput(f"{len(ids)} ids and columns of {len(columns)} entries", "as many")
        known, twice = set(self.ids), len({*ids}) < len(ids)
        if twice or known & set(ids):
            raise BadInput("an id that is in the index already", "ids that are new", "forget it")
        self.ids += ids
        self.columns += [dict(each) for each in columns]

    def forget(self, ids: Collection[str]) -> np.ndarray:
        """Remove the entries with these ids; which of the former ones stay (n,), bool."""
        gone = set(ids)
        stays = np.array([each not in gone for each in self.ids], dtype=bool)
        self.columns = [each for each, kept in zip(self.columns, stays, strict=True) if kept]
        self.ids = [each for each, kept in zip(self.ids, stays, strict=True) if kept]
        return stays

    def matching(self, where: Filter) -> np.ndarray:
        """The places (m,) of entries that pass a filter; one without the column does not."""
        wanted = {
            name: value if isinstance(value, list | tuple | set | frozenset) else (value,)
            for name, value in where.items()
        }
        return np.array(
            [
                place
                for place, own in enumerate(self.columns)
                if all(name in own and own[name] in wanted[name] for name in wanted)
            ],
            dtype=np.int64,
        )

    def best(self, scores: np.ndarray, among: np.ndarray, most: int) -> list[Hit]:
        """The ``most`` entries of the highest ``scores`` (m,) of the places ``among`` (m,); of
        equals the one that was added earlier."""
        if most < 1:
            raise BadInput(f"the {most} nearest entries", "at least 1")
        order = np.argsort(-scores, kind="stable")[:most]
        return [
            Hit(self.ids[place], float(score), self.columns[place])
            for place, score in zip(among[order].tolist(), scores[order], strict=True)
        ]

    def to_json(self) -> list[dict[str, Any]]:
        """The entries as JSON values."""
        pairs = zip(self.ids, self.columns, strict=True)
        return [{"id": each, "columns": columns} for each, columns in pairs]

    @classmethod
    def read(cls, value: Any, where: str) -> Entries:
        """What :meth:`to_json` gave; Corrupt if it is something else."""
        right = isinstance(value, list) and all(
            isinstance(each, dict)
            and isinstance(each.get("id"), str)
            and isinstance(each.get("columns"), dict)
            for each in value
        )
        if not right or len({each["id"] for each in value}) < len(value):
            raise Corrupt(f"{where} is not whole", "entries with an id each, and their columns")
        return cls([each["id"] for each in value], [each["columns"] for each in value])

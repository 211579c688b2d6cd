"""Products with weights in groups of few bits: the precision ``int4``, for answers alone.

A weight has four bits, and 32 inputs of an output a scale and a minimum. Weights of a GGUF file
that has them quantised are taken as they stand there, whatever their bits, so that they are those
of the file to the last bit. Streams are as in ``int8``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmwright.kernels.group import FORMATS, TAKE_APART, GroupWeight, Parts, dequantised
from lmwright.kernels.operands import BLOCK
from lmwright.kernels.terms import JoinedWeight, PackedWeight
from lmwright.models.core.packed import PackedProduct


@dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of a weight as a GGUF file has them quantised.

    ``blocks`` are the bytes of a whole tensor there (uint8, its rows × bytes), which may be a part
    of the mapped file; ``rows`` are those of the tensor's rows that are meant, in order.
    """

    format: str
    blocks: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> FileRows:
        """The same: none changes, and a copy would read the file."""
        return self

    def some(self, start: int, stop: int) -> FileRows:
        """Those from one row to another."""
        return FileRows(self.format, self.blocks, self.rows[start:stop])

    def packed(self, weight_oi: Tensor) -> GroupWeight:
        """The rows, packed without loss, while ``weight_oi`` is still what they stand for.

        Of a format without a layout they are quantised anew, in eight bits; rows that have changed
        (merged, trained) in four.
        """
        if self.format not in FORMATS:
            return GroupWeight.pack(weight_oi, 8)

        def parts(rows: slice) -> Parts:
            blocks = torch.from_numpy(self.blocks[self.rows[rows]])
            found = TAKE_APART[self.format](blocks)
            if not torch.equal(dequantised(found, FORMATS[self.format]), weight_oi[rows].float()):
                raise ChangedError
            return found

        try:
            return GroupWeight.pack_parts(tuple(weight_oi.shape), self.format, parts)  # type: ignore[arg-type]
        except ChangedError:
            return GroupWeight.pack(weight_oi)


class ChangedError(Exception):
    """The weight is no longer what the file's rows stand for."""


Held = tuple[FileRows, ...]
"""A weight's rows as files have them, from its first to its last; empty where none does."""


class Int4Product(PackedProduct):
    """x Wᵀ + b of the maps of one ``Linear`` with weights in groups, from fp32 and to fp32.

    ``held`` are the rows of its weight as a file has them quantised.
    """

    def __init__(self, held: Held = ()) -> None:
        super().__init__()
        self.held = held

    def __deepcopy__(self, memo: dict[int, Any]) -> Int4Product:
        """One that keeps nothing but the file's rows."""
        return type(self)(self.held)

    def pack(self, weight_oi: Tensor) -> PackedWeight:
        """The weight in groups: as the file has it, else quantised here."""
        held = self.rows_of(weight_oi)
        if not held:
            return GroupWeight.pack(weight_oi)
        if any(len(each) % BLOCK for each in held[:-1]):
            return GroupWeight.pack(weight_oi, 8)
        parts = weight_oi.split([len(each) for each in held])
        pieces = [each.packed(part) for each, part in zip(held, parts, strict=True)]
        return pieces[0] if len(pieces) == 1 else JoinedWeight(pieces)

    def rows_of(self, weight_oi: Tensor) -> Held:
        """The file's rows of a weight, or of those of its rows that a view of it has."""
        start = weight_oi.storage_offset() // max(1, weight_oi.shape[1])
        stop, first, found = start + len(weight_oi), 0, []
        for each in self.held:
            low, high = max(start - first, 0), min(stop - first, len(each))
            if low < high:
                found.append(each.some(low, high))
            first += len(each)
        return tuple(found) if sum(map(len, found)) == len(weight_oi) else ()

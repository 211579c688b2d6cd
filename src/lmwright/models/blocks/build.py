"""Where in a network an op is built: what it must know beside its own setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """``name`` of the sublayer (``decoder.3.0``; of a branch ``decoder.3.0.1``), ``width`` of what
    it reads, ``widths`` of the stacks before it, ``sites`` numbers for its places of noise,
    ``rate`` of its dropout."""

    name: str
    width: int
    widths: Mapping[str, int]
    sites: Iterator[int]
    rate: float

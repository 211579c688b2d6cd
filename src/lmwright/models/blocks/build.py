"""The build context of an op: its position in the network, beside its own setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BuildContext:
    """The position of an op in the network that is being built.

    ``name`` of the sublayer (``decoder.3.0``; of a branch ``decoder.3.0.1``), ``width`` of its
    input, ``stack_widths`` of the stacks before it, ``dropout_ids`` to take numbers from that key
    its dropout, ``dropout`` rate of its sublayer.
    """

    name: str
    width: int
    stack_widths: Mapping[str, int]
    dropout_ids: Iterator[int]
    dropout: float

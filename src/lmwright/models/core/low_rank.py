"""A linear map with a trained update of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn

from lmwright.models.core.linear import Linear

Drop = Callable[[Tensor], Tensor]


class LowRankLinear(Linear):
    """y + s B A x, with y the output of a frozen map and s = alpha / rank (Hu et al. 2021, eq. 3).

    Each part of the map, and each member of a stack, has matrices of its own: ``lora_a``
    (members, parts, rank, in), uniform within ±1/√in (Kaiming with a = √5, as peft draws it), and
    ``lora_b`` (members, out, rank), 0, so that the map begins as the frozen one. ``drop`` is
    dropout of the update's input.
    """

    def __init__(
        self,
        inner: Linear,
        rank: int,
        scale: float,
        generator: Generator,
        drop: Drop | None = None,
    ) -> None:
        super().__init__(inner.in_features, inner.parts, inner.members)
        self.inner, self.scale, self.drop = inner, scale, drop
        like = next(inner.parameters())
        bound = 1 / math.sqrt(self.in_features)
        shape = self.members, len(self.parts), rank, self.in_features
        drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        drawn = drawn.to("cpu" if like.is_meta else like.device, like.dtype)
        self.lora_a = nn.Parameter(drawn)
        self.lora_b = nn.Parameter(drawn.new_zeros(self.members, self.out_features, rank))

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream."""
        y_no = self.inner(x_ni, rows, member)
        if self.drop is not None:
            x_ni = self.drop(x_ni)
        start, stop, _ = (rows or slice(None)).indices(self.out_features)
        updates = [
            self.product(
                self.product(x_ni, self.lora_a[member, part], None), self.lora_b[member, own], None
            )
            for part, own in self.rows_of_parts(start, stop)
        ]
        return y_no + self.scale * torch.cat(updates, dim=1)

    def rows_of_parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Which of the outputs from ``start`` to ``stop`` are of which part."""
        first = 0
        for part, size in enumerate(self.parts):
            own = slice(max(start, first), min(stop, first + size))
            if own.start < own.stop:
                yield part, own
            first += size

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight of the one map that gives the same outputs, shaped as the frozen one's."""
        weight = self.inner.weight
        assert isinstance(weight, Tensor)
        update_moi = torch.cat(
            [
                self.lora_b[:, own] @ self.lora_a[:, part]
                for part, own in self.rows_of_parts(0, self.out_features)
            ],
            dim=1,
        )
        return weight + (self.scale * update_moi).view_as(weight)

"""A linear map with a trained update of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn

from lmwright.models.core.bf16 import same
from lmwright.models.core.linear import Linear

Drop = Callable[[Tensor], Tensor]


class LowRankLinear(Linear):
    """y + s B A x, with y the output of a frozen map and s the scale (Hu et al. 2021, eq. 3).

    Each part of the map, and each member of a stack, has matrices of its own: ``lora_a``
    (members, parts, rank, in), uniform within ±1/√in (Kaiming with a = √5, as peft draws it), and
    ``lora_b`` (members, out, rank), 0, so that the map begins as the frozen one. ``drop`` is
    dropout of the update's input.

    With ``dora`` each row of W + s B A is divided by its norm and multiplied by a trained
    ``magnitude`` (members · out), which begins as the norm of W's row (Liu et al. 2024, eq. 5). The
    norm has no gradient (section 4.3). It is one vector, which optimizers do not decay.
    """

    packs = False  # the matrices are small: fewer bits would cost accuracy and save nothing

    def __init__(
        self,
        inner: Linear,
        rank: int,
        scale: float,
        generator: Generator,
        drop: Drop | None = None,
        dora: bool = False,
    ) -> None:
        super().__init__(inner.in_features, inner.parts, inner.members)
        self.inner, self.scale, self.drop = inner, scale, drop
        like = inner.weight
        assert isinstance(like, Tensor)
        bound = 1 / math.sqrt(self.in_features)
        shape = self.members, len(self.parts), rank, self.in_features
        drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        drawn = drawn.to("cpu" if like.is_meta else like.device, like.dtype)
        self.lora_a = nn.Parameter(drawn)
        self.lora_b = nn.Parameter(drawn.new_zeros(self.members, self.out_features, rank))
        self.magnitude = nn.Parameter(self.norms().flatten()) if dora else None
        self.known: tuple[list[Tensor], list[int], Tensor] | None = None

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream."""
        return self.adapted(self.inner(x_ni, rows, member), x_ni, rows, member)

    def adapted(
        self, y_no: Tensor, x_ni: Tensor, rows: slice | None = None, member: int = 0
    ) -> Tensor:
        """The outputs whose frozen map gives ``y_no``."""
        if self.drop is not None:
            x_ni = self.drop(x_ni)
        start, stop, _ = (rows or slice(None)).indices(self.out_features)
        updates = [
            self.product(
                self.product(x_ni, self.lora_a[member, part], None), self.lora_b[member, own], None
            )
            for part, own in self.rows_of_parts(start, stop)
        ]
        update_no = self.scale * torch.cat(updates, dim=1)
        if self.magnitude is None:
            return y_no + update_no
        ratio_o = self.ratios()[member, start:stop]
        bias = getattr(self.inner, "bias", None)
        plain_no = y_no if bias is None else y_no - bias.view(self.members, -1)[member, start:stop]
        # As a difference from the frozen map's output, so that a ratio of 1 leaves its bits.
        return y_no + (ratio_o - 1) * plain_no + ratio_o * update_no

    def rows_of_parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Which of the outputs from ``start`` to ``stop`` are of which part."""
        first = 0
        for part, size in enumerate(self.parts):
            own = slice(max(start, first), min(stop, first + size))
            if own.start < own.stop:
                yield part, own
            first += size

    def ratios(self) -> Tensor:
        """By what each row of W + s B A is multiplied (members, out): its magnitude over its norm.

        The norms are kept while the matrices stay the same.
        """
        assert self.magnitude is not None
        now = [each.detach() for each in self.matrices]
        versions = [0 if each.is_inference() else each._version for each in self.matrices]
        if (
            self.known is None
            or versions != self.known[1]
            or not all(map(same, now, self.known[0]))
        ):
            with torch.inference_mode(False):  # a later step may keep them for its way back
                self.known = now, versions, self.norms()
        return self.magnitude.view(self.members, -1) / self.known[2]

    @property
    def matrices(self) -> tuple[nn.Parameter, nn.Parameter]:
        """A and B."""
        return self.lora_a, self.lora_b

    @torch.no_grad()
    def norms(self) -> Tensor:
        """The norm of each row of W + s B A (members, out)."""
        return torch.linalg.vector_norm(self.updated_weight(), dim=2)

    def updated_weight(self) -> Tensor:
        """W + s B A (members, out, in)."""
        weight, update_moi = self.inner.weight, self.update()
        assert isinstance(weight, Tensor)
        return weight.view_as(update_moi) + self.scale * update_moi

    def update(self, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """B A (members, out, in), by default of its own matrices."""
        a, b = self.lora_a if a is None else a, self.lora_b if b is None else b
        rows = self.rows_of_parts(0, self.out_features)
        return torch.cat([b[:, own] @ a[:, part] for part, own in rows], dim=1)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight of the one map that gives the same outputs, shaped as the frozen one's."""
        weight, merged_moi = self.inner.weight, self.updated_weight()
        assert isinstance(weight, Tensor)
        if self.magnitude is not None:
            merged_moi = merged_moi * self.ratios()[:, :, None]
        return merged_moi.view_as(weight)

"""A sublayer: an op and what stands round it; and the op that is several side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lmwright.models.blocks.attention import Attention, Ends
from lmwright.models.blocks.build import Place
from lmwright.models.blocks.context import Flow
from lmwright.models.blocks.feed_forward import Experts, FeedForward, Projection
from lmwright.models.blocks.norm import norm
from lmwright.models.blocks.recurrent import Convolution, Recurrent
from lmwright.models.core import spec


class Sublayer(nn.Module):
    """y = after(x + drop(within(op(before(x))))), with the parts that the spec gives it."""

    def __init__(self, setting: spec.Sublayer, place: Place) -> None:
        super().__init__()
        self.residual, self.rate, self.skip = setting.residual, setting.dropout, setting.skip
        self.site, self.skip_site = next(place.sites), next(place.sites)
        self.before = norm(setting.before, place.width)
        self.op = OPS[setting.op.op](setting.op, place)
        self.width: int = self.op.width
        self.within = norm(setting.within, self.width)
        self.after = norm(setting.after, self.width)

    @property
    def mixes_tokens(self) -> bool:
        """Whether a token's result depends on others."""
        return bool(self.op.mixes_tokens)

    def forward(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """The stream (n, d) after this sublayer."""
        return self.joined(x_nd, self.op(self.before(x_nd), flow), flow)

    def ends(self, x_nd: Tensor, flow: Flow, only: Ends) -> Tensor:
        """The rows of :meth:`forward` of each document's first or last token: (b, d)."""
        normed_nd = self.before(x_nd)
        if isinstance(self.op, Attention):
            y_bd = self.op(normed_nd, flow, only)
        else:
            y_bd = self.op(normed_nd, flow)[only.rows]
        return self.joined(x_nd[only.rows], y_bd, at(flow, only))

    def joined(self, x_nd: Tensor, y_nd: Tensor, flow: Flow) -> Tensor:
        """What the op gave, joined with what went in."""
        y_nd, noise = self.within(y_nd), flow.noise
        if noise is not None and self.skip:
            y_nd = y_nd * noise.documents(flow.batch, y_nd, self.skip, self.skip_site)
        if noise is not None and self.rate:
            mask_nd = noise.rows(flow.batch, y_nd, self.rate, self.site)
            y_nd = torch.addcmul(x_nd, y_nd, mask_nd) if self.residual else y_nd * mask_nd
        elif self.residual:
            y_nd = x_nd + y_nd
        return self.after(y_nd)


def at(flow: Flow, only: Ends) -> Flow:
    """The same pass, going on with some tokens alone."""
    return Flow(only.batch, flow.noise, flow.cache, flow.notes, flow.read, flow.layer, flow.losses)


class Parallel(nn.Module):
    """The sum of several ops on the same input, each with its own norm."""

    def __init__(self, setting: spec.Parallel, place: Place) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(each.before, place.width) for each in setting.branches)
        self.ops = nn.ModuleList(
            OPS[each.op.op](each.op, replace(place, name=f"{place.name}.{number}"))
            for number, each in enumerate(setting.branches)
        )
        self.width = place.width
        self.mixes_tokens = any(op.mixes_tokens for op in self.ops)

    def forward(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """The stream (n, d)."""
        parts = [op(own(x_nd), flow) for own, op in zip(self.norms, self.ops, strict=True)]
        return sum(parts[1:], parts[0])


OPS: dict[str, Any] = {
    "attention": Attention,
    "feed_forward": FeedForward,
    "experts": Experts,
    "recurrent": Recurrent,
    "convolution": Convolution,
    "projection": Projection,
    "parallel": Parallel,
}

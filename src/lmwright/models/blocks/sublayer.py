"""A sublayer (an op with norms, residual connection and dropout), and parallel ops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lmwright.models.blocks.attention import Attention, BoundaryTokens
from lmwright.models.blocks.build import BuildContext
from lmwright.models.blocks.context import ForwardContext
from lmwright.models.blocks.feed_forward import Experts, FeedForward, Projection
from lmwright.models.blocks.norm import norm
from lmwright.models.blocks.recurrent import Convolution, Recurrent
from lmwright.models.core import spec


class Sublayer(nn.Module):
    """y = post_norm(x + dropout(branch_norm(op(pre_norm(x))))), as the spec has them."""

    def __init__(self, setting: spec.Sublayer, build: BuildContext) -> None:
        super().__init__()
        self.residual, self.rate = setting.residual, setting.dropout
        self.stochastic_depth = setting.stochastic_depth
        self.dropout_id, self.depth_dropout_id = next(build.dropout_ids), next(build.dropout_ids)
        self.pre_norm = norm(setting.pre_norm, build.width)
        self.op = OPS[setting.op.op](setting.op, build)
        self.width: int = self.op.width
        self.branch_norm = norm(setting.branch_norm, self.width)
        self.post_norm = norm(setting.post_norm, self.width)

    @property
    def mixes_tokens(self) -> bool:
        """True if a token's result depends on others."""
        return bool(self.op.mixes_tokens)

    def forward(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """(n, d) -> (n, d)."""
        return self.add_residual(x_nd, self.op(self.pre_norm(x_nd), context), context)

    def boundary_states(
        self, x_nd: Tensor, context: ForwardContext, only: BoundaryTokens
    ) -> Tensor:
        """Rows of :meth:`forward` of each document's first or last token: (b, d)."""
        normed_nd = self.pre_norm(x_nd)
        if isinstance(self.op, Attention):
            y_bd = self.op(normed_nd, context, only)
        else:
            y_bd = self.op(normed_nd, context)[only.rows]
        return self.add_residual(x_nd[only.rows], y_bd, narrowed(context, only))

    def add_residual(self, x_nd: Tensor, y_nd: Tensor, context: ForwardContext) -> Tensor:
        """Add the op's output, normed and with dropout, to its input."""
        y_nd, dropout_rng = self.branch_norm(y_nd), context.dropout_rng
        if dropout_rng is not None and self.stochastic_depth:
            rate, dropout_id = self.stochastic_depth, self.depth_dropout_id
            y_nd = y_nd * dropout_rng.document_mask(context.batch, y_nd, rate, dropout_id)
        if dropout_rng is not None and self.rate:
            mask_nd = dropout_rng.token_mask(context.batch, y_nd, self.rate, self.dropout_id)
            y_nd = torch.addcmul(x_nd, y_nd, mask_nd) if self.residual else y_nd * mask_nd
        elif self.residual:
            y_nd = x_nd + y_nd
        return self.post_norm(y_nd)


def narrowed(context: ForwardContext, only: BoundaryTokens) -> ForwardContext:
    """The context of the same pass for some of its tokens alone."""
    return replace(context, batch=only.batch, memo={})


class Parallel(nn.Module):
    """The sum of several ops on the same input, each with its own norm."""

    def __init__(self, setting: spec.Parallel, build: BuildContext) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(each.pre_norm, build.width) for each in setting.branches)
        self.ops = nn.ModuleList(
            OPS[each.op.op](each.op, replace(build, name=f"{build.name}.{number}"))
            for number, each in enumerate(setting.branches)
        )
        self.width = build.width
        self.mixes_tokens = any(op.mixes_tokens for op in self.ops)

    def forward(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """(n, d) -> (n, d)."""
        parts = [op(own(x_nd), context) for own, op in zip(self.norms, self.ops, strict=True)]
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

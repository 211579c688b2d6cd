"""The ops that a spec can name, as modules over a ragged stream.

Letters in names: n tokens of the stream, d width, g documents of one length times heads,
t length of a document, h width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models import spec
from lmwright.models.products import Linear
from lmwright.models.ragged import Group, Noise, Ragged

BENDS = {
    "gelu": lambda x: F.gelu(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class Embedding(nn.Module):
    """Sum of token, position and segment vectors, normalised."""

    def __init__(self, stack: spec.Stack, site: int) -> None:
        super().__init__()
        setting, self.site = stack.embedding, site
        self.rate = setting.dropout
        self.tokens = nn.Embedding(setting.vocabulary, stack.width)
        self.positions = nn.Embedding(setting.positions, stack.width) if setting.positions else None
        self.segments = nn.Embedding(setting.segments, stack.width) if setting.segments else None
        self.norm = norm(setting.norm, stack.width)
        self.gradient = TableGradient()

    def forward(self, batch: Ragged, noise: Noise | None) -> Tensor:
        """Vectors (n, d) of the stream; every document is one segment, the first."""
        x_nd = LookUp.apply(self.tokens.weight, batch.tokens_n, self.gradient)
        if self.positions is not None:
            x_nd = x_nd + self.positions(batch.positions_n)
        if self.segments is not None:
            x_nd = x_nd + self.segments.weight[0]
        x_nd = self.norm(x_nd)
        if noise is not None and self.rate:
            x_nd = x_nd * noise.rows(batch, x_nd, self.rate, self.site)
        return x_nd


class Sublayer(nn.Module):
    """y = after(x + drop(op(before(x)))), with the parts that the spec gives it."""

    def __init__(self, setting: spec.Sublayer, width: int, site: int) -> None:
        super().__init__()
        self.residual, self.rate, self.site = setting.residual, setting.dropout, site
        self.before = norm(setting.before, width)
        self.op = OPS[setting.op.op](setting.op, width, site + 1)
        self.after = norm(setting.after, width)

    def forward(self, x_nd: Tensor, batch: Ragged, noise: Noise | None) -> Tensor:
        """The stream (n, d) after this sublayer."""
        y_nd = self.op(self.before(x_nd), batch, noise)
        if noise is not None and self.rate:
            mask_nd = noise.rows(batch, y_nd, self.rate, self.site)
            y_nd = torch.addcmul(x_nd, y_nd, mask_nd) if self.residual else y_nd * mask_nd
        elif self.residual:
            y_nd = x_nd + y_nd
        return self.after(y_nd)


class Attention(nn.Module):
    """Multi-head self-attention inside each document (Vaswani et al. 2017, equation 1)."""

    mixes_tokens = True

    def __init__(self, setting: spec.Attention, width: int, site: int) -> None:
        super().__init__()
        self.heads, self.scale = setting.heads, setting.scale
        self.rate, self.site = setting.dropout, site
        # One product for queries, keys and values: a third of the passes over the stream.
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x_nd: Tensor, batch: Ragged, noise: Noise | None) -> Tensor:
        """What each token takes from its document: (n, d)."""
        qkv = self.qkv(x_nd)
        if noise is not None and self.rate:
            masks = [
                noise.weights(group, self.heads, qkv, self.rate, self.site)
                for group in batch.groups()
            ]
            mixed_nd = AttendWithNoise.apply(qkv, batch.groups(), self.heads, self.scale, masks)
        else:
            mixed_nd = attend(qkv, batch.groups(), self.heads, self.scale)
        return self.out(mixed_nd)


class FeedForward(nn.Module):
    """Two linear maps with a bend between them, token by token."""

    mixes_tokens = False

    def __init__(self, setting: spec.FeedForward, width: int, site: int) -> None:
        super().__init__()
        self.bend = BENDS[setting.bend]
        self.up = Linear(width, setting.inner)
        self.down = Linear(setting.inner, width)

    def forward(self, x_nd: Tensor, batch: Ragged, noise: Noise | None) -> Tensor:
        """The stream (n, d), each token mapped by itself."""
        return self.down(self.bend(self.up(x_nd)))


class Head(nn.Module):
    """Logits of each document from its hidden states."""

    def __init__(self, setting: spec.Head, width: int, site: int) -> None:
        super().__init__()
        self.pool, self.rate, self.site = setting.pool, setting.dropout, site
        self.dense = Linear(width, width) if setting.dense else None
        self.out = Linear(width, setting.outputs)

    def forward(self, x_nd: Tensor, batch: Ragged, noise: Noise | None) -> Tensor:
        """Logits (b, outputs) in the order in which the documents were packed."""
        pooled_bd = mean_pool(x_nd, batch) if self.pool == "mean" else first_token(x_nd, batch)
        if self.dense is not None:
            pooled_bd = torch.tanh(self.dense(pooled_bd))
        if noise is not None and self.rate:
            pooled_bd = pooled_bd * noise.vectors(batch, pooled_bd, self.rate, self.site)
        return batch.as_packed(self.out(pooled_bd))


OPS: dict[str, Any] = {"attention": Attention, "feed_forward": FeedForward}


def norm(setting: spec.Norm | None, width: int) -> nn.Module:
    """The normalisation that a spec asks for; none is the identity."""
    return nn.Identity() if setting is None else nn.LayerNorm(width, eps=setting.eps)


def mean_pool(x_nd: Tensor, batch: Ragged) -> Tensor:
    """The mean over each document's tokens (b, d), in the stream's order.

    One document at a time, so that a document's mean never depends on its neighbours.
    """
    return torch.stack([x_nd[start:stop].mean(dim=0) for start, stop in batch.spans()])


def first_token(x_nd: Tensor, batch: Ragged) -> Tensor:
    """Each document's first hidden state (b, d), in the stream's order."""
    return x_nd[list(batch.cu_seqlens[:-1])]


def attend(qkv_n: Tensor, groups: list[Group], heads: int, scale: float) -> Tensor:
    """Attention without noise: documents of one length share one fused call. (n, 3d) -> (n, d)."""
    parts = []
    for group, part in zip(groups, split(qkv_n, groups), strict=True):
        documents, length = len(group.documents), group.length
        q, k, v = part.view(documents, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
        parts.append(mixed.transpose(1, 2).reshape(documents * length, -1))
    return torch.cat(parts)


def split(x_n: Tensor, groups: list[Group]) -> tuple[Tensor, ...]:
    """The rows of the stream, group by group."""
    return x_n.split([group.stop - group.start for group in groups])


class TableGradient:
    """The gradient of a large table, in one buffer for all steps.

    A step touches a few hundred of its tens of thousands of rows; to allocate and clear all
    of them each time costs more than the rows themselves.
    """

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self.touched: Tensor | None = None

    def add(self, table: Tensor, rows_n: Tensor, gradient_nd: Tensor) -> None:
        """Add ``gradient_nd`` to the rows ``rows_n`` of the table's gradient."""
        if table.grad is None:
            if self.buffer is None or self.buffer.shape != table.shape:
                self.buffer = torch.zeros_like(table)
            elif self.touched is not None:
                self.buffer[self.touched] = 0
            self.touched, table.grad = rows_n, self.buffer
        elif self.touched is not None:
            self.touched = torch.cat([self.touched, rows_n])
        table.grad.index_add_(0, rows_n, gradient_nd)


class LookUp(torch.autograd.Function):
    """Rows of a table, whose gradient goes into a :class:`TableGradient`."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, table: Tensor, rows_n: Tensor, gradient: TableGradient
    ) -> Tensor:
        """(rows, d) and (n) -> (n, d)."""
        ctx.table, ctx.gradient = table, gradient
        ctx.save_for_backward(rows_n)
        return F.embedding(rows_n, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        """Leaves the table's gradient in place; nothing flows on."""
        with torch.no_grad():
            ctx.gradient.add(ctx.table, ctx.saved_tensors[0], gradients[0])
        return None, None, None


class AttendWithNoise(torch.autograd.Function):
    """Attention with dropout on its weights, and its gradient written out.

    With P the softmax, M the mask, A = P * M and O = A V, the gradient with respect to the
    scores is (dO Vᵀ) * A - P * rowsum(dO * O): the row sums come from O, so the mask itself
    need not be kept (the identity of Dao et al. 2022, section 3.1, which dropout keeps).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        qkv_n: Tensor,
        groups: list[Group],
        heads: int,
        scale: float,
        masks: list[Tensor],
    ) -> Tensor:
        """(n, 3d) -> (n, d); one mask (documents * heads, t, t) a group."""
        out_n = qkv_n.new_empty(qkv_n.shape[0], qkv_n.shape[1] // 3)
        kept: list[Tensor] = []
        for group, mask_gtt in zip(groups, masks, strict=True):
            q, k, v = by_head(qkv_n, group, 3, heads)
            scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=scale)
            p_gtt = torch.softmax(scores, dim=-1)
            a_gtt = mask_gtt.mul_(p_gtt)
            put_by_head(out_n, group, heads, [torch.bmm(a_gtt, v)])
            kept += [q, k, v, p_gtt, a_gtt]
        ctx.groups, ctx.heads, ctx.scale = groups, heads, scale
        ctx.save_for_backward(out_n, *kept)
        return out_n

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        """The gradient with respect to ``qkv_n``."""
        out_n, *kept = ctx.saved_tensors
        gradient_n = gradients[0].contiguous()
        result_n = out_n.new_empty(out_n.shape[0], 3 * out_n.shape[1])
        for place, group in enumerate(ctx.groups):
            q, k, v, p_gtt, a_gtt = kept[5 * place : 5 * place + 5]
            do, o = (by_head(x, group, 1, ctx.heads)[0] for x in (gradient_n, out_n))
            ds_gtt = torch.bmm(do, v.transpose(1, 2)).mul_(a_gtt)
            ds_gtt.addcmul_(p_gtt, (do * o).sum(-1, keepdim=True), value=-1)
            parts = [
                torch.bmm(ds_gtt, k).mul_(ctx.scale),
                torch.bmm(ds_gtt.transpose(1, 2), q).mul_(ctx.scale),
                torch.bmm(a_gtt.transpose(1, 2), do),
            ]
            put_by_head(result_n, group, ctx.heads, parts)
        return result_n, None, None, None, None


def by_head(x_n: Tensor, group: Group, parts: int, heads: int) -> Tensor:
    """A group's rows as (parts, documents * heads, t, h), contiguous for batched products."""
    rows = x_n[group.start : group.stop]
    rows = rows.view(len(group.documents), group.length, parts, heads, -1)
    return rows.permute(2, 0, 3, 1, 4).reshape(parts, -1, group.length, rows.shape[-1])


def put_by_head(x_n: Tensor, group: Group, heads: int, parts: list[Tensor]) -> None:
    """Write parts, each (documents * heads, t, h), back beside one another in the group's rows."""
    documents = len(group.documents)
    rows = x_n[group.start : group.stop].view(documents, group.length, len(parts), heads, -1)
    for place, part in enumerate(parts):
        rows[:, :, place] = part.unflatten(0, (documents, heads)).transpose(1, 2)


def attend_one(q_td: Tensor, k_td: Tensor, v_td: Tensor, heads: int, scale: float) -> Tensor:
    """The reference that the fast paths must agree with: one document, head by head."""
    width = q_td.shape[1] // heads
    columns = [slice(head * width, (head + 1) * width) for head in range(heads)]
    mixed = [
        torch.softmax(scale * q_td[:, each] @ k_td[:, each].T, dim=-1) @ v_td[:, each]
        for each in columns
    ]
    return torch.cat(mixed, dim=1)

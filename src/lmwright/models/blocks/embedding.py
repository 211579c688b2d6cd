"""Embeddings of tokens, positions and segments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.blocks.context import ForwardContext
from lmwright.models.blocks.norm import norm
from lmwright.models.blocks.positions import sinusoids
from lmwright.models.core import spec
from lmwright.models.core.ragged import Ragged


class Table(nn.Embedding):
    """An embedding table whose weights are set from outside, after the network is built."""

    def reset_parameters(self) -> None:
        """Do nothing: a draw on no device at all would have torch load its compiler for it."""


class Embedding(nn.Module):
    """Sum of token, position and segment embeddings, normalised: see ``spec.Embedding``.

    Vectors that a batch has in place of tokens are as the table's rows after their scale (as
    ``inputs_embeds`` of transformers): norms, positions, segments and dropout come on top.
    """

    def __init__(self, stack: spec.Stack, dropout_id: int) -> None:
        super().__init__()
        setting, width = stack.embedding, stack.width
        self.setting, self.width, self.dropout_id = setting, width, dropout_id
        self.tokens = Table(setting.vocabulary, width) if setting.vocabulary else None
        learned = setting.positions if setting.sinusoids is None else 0
        self.positions = Table(learned, width) if learned else None
        self.segments = Table(setting.segments, width) if setting.segments else None
        self.vector = nn.Parameter(torch.empty(width)) if setting.vector else None
        self.token_norm, self.norm = norm(setting.token_norm, width), norm(setting.norm, width)
        self.gradient, self.alone = TableGradient(), True

    def forward(self, context: ForwardContext) -> Tensor:
        """Embeddings (n, d) of the stream."""
        batch, setting = context.batch, self.setting
        x_nd = self.norm(self.summed(batch))
        if context.dropout_rng is not None and setting.dropout:
            x_nd = x_nd * context.dropout_rng.token_mask(
                batch, x_nd, setting.dropout, self.dropout_id
            )
        return x_nd

    def summed(self, batch: Ragged) -> Tensor:
        """Sum of the tables' rows."""
        setting = self.setting
        if self.tokens is not None:
            x_nd = self.looked_up(self.tokens.weight, batch.tokens_n)
            x_nd = batch.with_vectors(x_nd * setting.scale if setting.scale != 1.0 else x_nd)
        elif self.vector is not None:
            x_nd = self.vector.expand(len(batch.tokens_n), -1)
        else:
            raise TypeError("an embedding of neither tokens nor a vector")
        x_nd = self.token_norm(x_nd)
        rows_n = batch.positions_n + setting.first_position
        if self.positions is not None:
            x_nd = x_nd + self.positions(rows_n)
        if setting.sinusoids is not None:
            x_nd = x_nd + sinusoids(rows_n, self.width, setting.sinusoids).to(x_nd.dtype)
        known = batch.segments_n
        if self.segments is not None and not (known is None and setting.default_segment == "none"):
            x_nd = x_nd + (self.segments.weight[0] if known is None else self.segments(known))
        return x_nd

    def looked_up(self, table: Tensor, rows_n: Tensor) -> Tensor:
        """Look up rows of the token table; a tied table gets its gradient in the ordinary way."""
        if not self.alone:
            return F.embedding(rows_n, table)
        found: Tensor = LookUp.apply(table, rows_n, self.gradient)
        return found


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
            if self.buffer is None or not alike(self.buffer, table):
                self.buffer = torch.zeros_like(table)
            elif self.touched is not None:
                self.buffer[self.touched] = 0
            self.touched, table.grad = rows_n, self.buffer
        elif self.touched is not None:
            self.touched = torch.cat([self.touched, rows_n])
        table.grad.index_add_(0, rows_n, gradient_nd)


def alike(buffer: Tensor, table: Tensor) -> bool:
    """Whether a buffer has the shape, device and dtype of a table."""
    return (buffer.shape, buffer.device, buffer.dtype) == (table.shape, table.device, table.dtype)


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
        """Add to the table's gradient in place; nothing is passed on."""
        with torch.no_grad():
            ctx.gradient.add(ctx.table, ctx.saved_tensors[0], gradients[0])
        return None, None, None

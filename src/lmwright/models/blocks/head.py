"""Heads: from hidden states to logits of tokens or documents, or to a document's vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.blocks.activation import ACTIVATIONS
from lmwright.models.blocks.norm import norm
from lmwright.models.core import spec
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.linear import DenseLinear
from lmwright.models.core.ragged import Ragged


class Head(nn.Module):
    """A head: see ``spec.Head``. ``out`` is the token table where the head is tied to it."""

    def __init__(self, setting: spec.Head, width: int, dropout_id: int) -> None:
        super().__init__()
        self.setting, self.dropout_id = setting, dropout_id
        self.dense = self.dense_norm = None
        if setting.dense is not None:
            self.dense = DenseLinear(width, setting.dense.outputs)
            self.dense_norm = norm(setting.dense.norm, setting.dense.outputs)
            self.activation = ACTIVATIONS[setting.dense.activation]
            width = setting.dense.outputs
        self.out = DenseLinear(width, setting.outputs, setting.bias) if setting.outputs else None

    def forward(self, x_nd: Tensor, batch: Ragged, dropout_rng: DropoutRNG | None) -> Tensor:
        """(n, outputs) a token of the stream, or (b, outputs) a document in the packed order."""
        x = self.logits(self.states(x_nd, batch, dropout_rng))
        if self.setting.unit:
            x = F.normalize(x, dim=-1)
        return x if self.setting.pool == "none" else batch.as_packed(x)

    def states(self, x_nd: Tensor, batch: Ragged, dropout_rng: DropoutRNG | None) -> Tensor:
        """What the outputs are a linear map of: (n, d) a token, or (b, d) in the stream's order."""
        setting = self.setting
        x = x_nd if setting.pool == "none" else POOLS[setting.pool](x_nd, batch)
        if self.dense is not None and self.dense_norm is not None:
            x = self.dense_norm(self.activation(self.dense(x)))
        if dropout_rng is not None and setting.dropout:
            draw = dropout_rng.token_mask if setting.pool == "none" else dropout_rng.pooled_mask
            x = x * draw(batch, x, setting.dropout, self.dropout_id)
        return x if setting.scale == 1.0 else x * setting.scale

    def logits(self, x: Tensor) -> Tensor:
        """The outputs of states."""
        if self.out is not None:
            x = self.out(x)
        if self.setting.logit_softcap:
            x = self.setting.logit_softcap * torch.tanh(x / self.setting.logit_softcap)
        return x


def mean_pool(x_nd: Tensor, batch: Ragged) -> Tensor:
    """The mean over each document's tokens (b, d), in the stream's order.

    One document at a time, so that a document's mean never depends on its neighbours.
    """
    return torch.stack([x_nd[start:stop].mean(dim=0) for start, stop in batch.spans()])


def max_pool(x_nd: Tensor, batch: Ragged) -> Tensor:
    """The largest of each number over each document's tokens (b, d), in the stream's order."""
    return torch.stack([x_nd[start:stop].amax(dim=0) for start, stop in batch.spans()])


def first_token(x_nd: Tensor, batch: Ragged) -> Tensor:
    """Each document's first hidden state (b, d), in the stream's order."""
    return x_nd[batch.boundary_rows(last=False)]


def last_token(x_nd: Tensor, batch: Ragged) -> Tensor:
    """Each document's last hidden state (b, d), in the stream's order."""
    return x_nd[batch.boundary_rows(last=True)]


POOLS = {"mean": mean_pool, "max": max_pool, "first": first_token, "last": last_token}

"""What a tuned model forgot: its outputs on a fixed general text, beside those of its start."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.assets import asset_file
from lmwright.models.core.ragged import pack
from lmwright.models.network.network import Network
from lmwright.models.parity import divergence, logits
from lmwright.models.text_model import TextModel
from lmwright.train.documents import byte_count

GENERAL = "asset:state-of-the-union/state-of-the-union.parquet"
"""English prose of two centuries, which is part of the package."""
PASSAGES, TOKENS = 16, 96
"""Passages that are read, and tokens of each."""


def general_passages() -> list[str]:
    """Passages of the general text, at even distances."""
    column = pq.read_table(asset_file(GENERAL), columns=["passage"]).column("passage")
    return [column[place * len(column) // PASSAGES].as_py() for place in range(PASSAGES)]


@torch.no_grad()
def forgetting(start: TextModel, tuned: TextModel) -> dict[str, Any]:
    """How far a tuned model is from its start on the general text.

    Of a causal language model: the divergence KL(start ‖ tuned) of the next token's distribution
    (nats a token) and the bits per byte of both. Of another network with one stream: the mean
    cosine of the hidden states' means. Of one with several streams: nothing.
    """
    network, other = start.network, tuned.network
    if len(network.streams) > 1:
        return {}
    if not network.is_causal_lm:
        texts = [each.ids for each in start.tokens(general_passages())]
        cosines = F.cosine_similarity(means(network, texts), means(other, texts), dim=1)
        return {"texts": len(texts), "cosine": float(cosines.mean())}
    nats, losses, size, count = 0.0, np.zeros(2), 0, 0
    for text in general_passages():
        ids = start.document(text, closed=False)[: min(TOKENS, start.max_tokens)]
        wanted = torch.from_numpy(ids[1:])
        pairs = zip(logits(network, ids), logits(other, ids), strict=True)
        first = 0
        for one_nv, two_nv in pairs:
            own = wanted[first : first + len(one_nv)].to(one_nv.device)
            first += len(one_nv)
            nats += float(divergence(one_nv, two_nv).double().sum())
            losses += [surprise(each[: len(own)], own) for each in (one_nv, two_nv)]
            count += len(one_nv)
        size += byte_count(start.tokenizer.decode(ids[1:].tolist()))
    before, after = (losses / math.log(2) / size).tolist()
    return {
        "tokens": count,
        "kl": nats / count,
        "bits_per_byte_before": before,
        "bits_per_byte_after": after,
    }


def means(network: Network, texts: list[np.ndarray]) -> Tensor:
    """The mean hidden state (texts, d) of each text."""
    batch = pack(texts)
    return torch.stack([each.mean(0) for each in batch.by_document(network.hidden(batch))]).double()


def surprise(logits_nv: Tensor, targets_n: Tensor) -> float:
    """The negative log-likelihood (nats) of targets, summed."""
    return float(F.cross_entropy(logits_nv.double(), targets_n, reduction="sum"))

"""What a precision costs: outputs of a network in it, beside those in fp32, on the same texts.

Of two networks likewise, as of one whose adapters are merged and the one that they were trained in.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.blocks.context import Cache
from lmwright.models.core.device import KvPrecision, Placement
from lmwright.models.core.ragged import pack
from lmwright.models.network.network import Network

TOKENS_AT_ONCE = 256
"""Tokens whose logits are held in both precisions; a vocabulary of 262,144 takes half a GB."""


@dataclass(frozen=True)
class Parity:
    """How far outputs are from those in fp32, or from those of another network.

    Of distributions (``count`` tokens of a causal language model, or texts of a classifier): the
    Kullback–Leibler divergence from those in fp32, in nats (mean, 99th percentile, most), and the
    share of ``equal`` greedy choices. Of other networks, over ``count`` documents: the least and
    the mean cosine of the hidden states' mean. ``precision`` says what was compared.
    """

    precision: str
    count: int
    kl_mean: float | None = None
    kl_p99: float | None = None
    kl_most: float | None = None
    equal: float | None = None
    cosine_least: float | None = None
    cosine_mean: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers that are known."""
        return {name: each for name, each in asdict(self).items() if each is not None}

    def __str__(self) -> str:
        """In words."""
        beside = "the adapters" if self.precision.startswith("merged") else "fp32"
        among = f"{self.precision} beside {beside} on {self.count:,}"
        if self.kl_mean is not None:
            return (
                f"{among} outputs: KL {self.kl_mean:.4f} nats in the mean, {self.kl_p99:.4f} at "
                f"the 99th percentile; the likeliest choice is the same at {self.equal:.1%}"
            )
        return (
            f"{among} texts: cosine {self.cosine_mean:.4f} in the mean, "
            f"at least {self.cosine_least:.4f}"
        )


@torch.inference_mode()
def parity(
    network: Network, texts: Sequence[np.ndarray], precision: str, kv: KvPrecision = "fp32"
) -> Parity:
    """What a precision costs on token sequences; the network's own placement stays.

    ``kv`` is that of keys and values, which then go through a cache. BadInput without a text, and
    for a network with several streams.
    """
    before = network.placement
    if not texts or len(network.streams) > 1:
        raise BadInput("no texts, or a network of several streams", "texts of one stream")
    other = Placement(before.device, precision, kv)  # type: ignore[arg-type]
    measure = of_logits if network.is_causal_lm else of_states
    try:
        return measure(network, texts, other)
    finally:
        network.place(before)


def of_logits(network: Network, texts: Sequence[np.ndarray], other: Placement) -> Parity:
    """The parity of a causal language model."""
    reference = in_fp32(network)
    network.place(other)
    return of_distributions(reference, network, texts, str(other))


def of_distributions(
    reference: Network, network: Network, texts: Sequence[np.ndarray], precision: str
) -> Parity:
    """How far a network's distributions are from those of a reference."""
    divergences, equal = [], 0
    for ids in texts:
        for wanted_nv, found_nv in zip(logits(reference, ids), logits(network, ids), strict=True):
            equal += int((wanted_nv.argmax(-1) == found_nv.argmax(-1)).sum())
            divergences.append(divergence(wanted_nv, found_nv))
    nats = torch.cat(divergences).double()
    return Parity(
        precision,
        len(nats),
        kl_mean=float(nats.mean()),
        kl_p99=float(nats.quantile(0.99)),
        kl_most=float(nats.max()),
        equal=equal / len(nats),
    )


def logits(network: Network, ids: np.ndarray) -> Iterator[Tensor]:
    """The logits (n, v) of a text's tokens, some tokens at a time, or (1, v) of the text."""
    head, batch = network.head, pack([ids])
    assert head is not None
    if not network.is_causal_lm:
        yield network(batch)
        return
    kept = network.placement.kv != Placement.kv
    hidden_nd = network.hidden(batch, cache=Cache(1, network.new_pool()) if kept else None)
    states_nd = head.states(hidden_nd, batch, None)
    yield from (head.logits(part) for part in states_nd.split(TOKENS_AT_ONCE))


def in_fp32(network: Network) -> Network:
    """The same network in fp32, whatever its precision, with the same weights in memory."""
    found = copy.deepcopy(network, {id(each): each for each in network.parameters()})
    found.place(Placement(network.placement.device))
    return found


def divergence(wanted_nv: Tensor, found_nv: Tensor) -> Tensor:
    """The KL divergence (n,) of the distributions of ``found_nv`` from those of ``wanted_nv``."""
    wanted, found = wanted_nv.log_softmax(-1), found_nv.log_softmax(-1)
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).clamp_min(0)


def of_states(network: Network, texts: Sequence[np.ndarray], other: Placement) -> Parity:
    """The parity of an encoder."""
    reference = in_fp32(network)
    network.place(other)
    return of_means(reference, network, texts, str(other))


def of_means(
    reference: Network, network: Network, texts: Sequence[np.ndarray], precision: str
) -> Parity:
    """How far the means of a network's hidden states are from those of a reference."""
    found = []
    for each in (reference, network):
        batch = pack(texts)
        states = batch.by_document(each.hidden(batch))
        found.append(torch.stack([state.mean(0) for state in states]).double())
    cosines = F.cosine_similarity(found[0], found[1], dim=1)
    return Parity(
        precision,
        len(cosines),
        cosine_least=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
    )

"""Prefix tuning: learned keys and values before every document (Li and Liang 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import key, stream
from lmwright.core.stage import Settings
from lmwright.models.blocks.attention import MASKED, Attention, GroupedQKV
from lmwright.models.blocks.context import Cache, ForwardContext
from lmwright.models.core.adapter import Unmergeable, take_over
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.network.network import Batch, Network, head_weights, tie


@dataclass(frozen=True, kw_only=True)
class Prefix(Settings):
    """Every self-attention also attends to ``length`` learned keys and values before the document.

    They begin as those of tokens drawn from the vocabulary. They have no position: the document's
    tokens keep theirs, and masks, windows and biases by distance leave the prefix alone. With
    ``hidden`` above 0 a network of that width is added to them, tanh(Z A) B, which is learnt with
    them and steadies their training (the paper's reparametrisation, here one for each layer). With
    ``head`` the head's own weights learn as a whole; those that it shares with the body never do.
    A prefix cannot be merged into the weights.
    """

    length: int = 16
    hidden: int = 0
    head: bool = True
    freezes: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    def check(self) -> None:
        """BadInput for a number outside its range."""
        if self.length < 1:
            raise BadInput(f"length is {self.length}", "1 or more")
        if self.hidden < 0:
            raise BadInput(f"hidden is {self.hidden}", "0 or more")

    def apply(self, network: Network, seed: int) -> None:
        """A prefix in every self-attention; only they learn, and the head's weights.

        BadInput: a network without self-attention or with one by an order of factorisation, and
        a prefix longer than the network reads.
        """
        plain = {
            name: each
            for name, each in network.named_modules()
            if isinstance(each, Attention) and not each.setting.cross_attends
        }
        if not plain or any(each.setting.mask.startswith("perm") for each in plain.values()):
            raise BadInput(
                "tune is prefix, and the network has no self-attention by positions",
                "a network with such layers",
                "set tune to lora, head or full",
            )
        if network.longest is not None and self.length > network.longest:
            raise BadInput(f"tune.length is {self.length}", f"at most {network.longest}")
        cache = self.read_drawn_tokens(network, seed)
        network.requires_grad_(False)
        for each in head_weights(network)[0]:
            each.requires_grad_(self.head)
        for name, op in plain.items():
            k_mph, v_mph = (part[0] for part in cache.read(op.name, slice(0, 1), self.length))
            generator = Generator().manual_seed(key(seed, "weight", f"{name}.prefix") % (1 << 63))
            above, _, leaf = name.rpartition(".")
            made = PrefixAttention(op, k_mph, v_mph, self.hidden, generator)
            setattr(network.get_submodule(above), leaf, made)
        tie(network)

    @torch.no_grad()
    def read_drawn_tokens(self, network: Network, seed: int) -> Cache:
        """The KV cache after a document of ``length`` tokens drawn from each stack's vocabulary."""
        rng, cache = stream(seed, "prefix"), Cache(1)
        documents = {
            stack.name: pack([rng.integers(0, stack.embedding.vocabulary, self.length)])
            for stack in network.spec.stacks
        }
        batch: Batch = documents
        if len(documents) == 1:
            (batch,) = documents.values()
        network.hidden(batch, cache=cache)
        return cache


class PrefixAttention(Attention, Unmergeable):
    """An attention with learned keys and values, (kv heads, p, h) each, before every document's.

    Under a KV cache they are no part of it: they are put before what is read from it.
    """

    what = "a prefix of learned keys and values"

    def __init__(
        self, plain: Attention, k_mph: Tensor, v_mph: Tensor, hidden: int, generator: Generator
    ) -> None:
        take_over(self, plain)
        self.prefix_k, self.prefix_v = (
            nn.Parameter(part.clone(memory_format=torch.contiguous_format))
            for part in (k_mph, v_mph)
        )
        self.length, self.own = k_mph.shape[1], ("prefix_k", "prefix_v")
        self.hidden = hidden
        if not hidden:
            return
        self.own = (*self.own, "prefix_z", "prefix_a", "prefix_b")
        bound, both = 1 / math.sqrt(hidden), 2 * k_mph.shape[0] * k_mph.shape[2]
        drawn = torch.empty(self.length + hidden, hidden)
        drawn = drawn.uniform_(-1, 1, generator=generator).to(k_mph)
        self.prefix_z = nn.Parameter(drawn[: self.length].clone())
        self.prefix_a = nn.Parameter(drawn[self.length :] * bound)
        self.prefix_b = nn.Parameter(k_mph.new_zeros(hidden, both))

    def prefix(self) -> tuple[Tensor, Tensor]:
        """Keys and values (kv heads, p, h)."""
        if not self.hidden:
            return self.prefix_k, self.prefix_v
        more_pn = torch.tanh(self.prefix_z @ self.prefix_a) @ self.prefix_b
        more = more_pn.unflatten(1, (2, len(self.prefix_k), -1)).permute(1, 2, 0, 3)
        return self.prefix_k + more[0], self.prefix_v + more[1]

    def fits_kernel(self, batch: Ragged, keys: Ragged, context: ForwardContext) -> bool:
        """No kernel over the stream knows keys that stand outside of it."""
        return False

    def attend_group(
        self, grouped: GroupedQKV, batch: Ragged, keys: Ragged, context: ForwardContext
    ) -> Tensor:
        """Attention of one group, to the prefix too: (b, m, q, h)."""
        count, group = len(grouped.group.documents), grouped.group
        k, v = (
            torch.cat([own.to(part).expand(count, -1, -1, -1), part], dim=2)
            for own, part in zip(self.prefix(), (grouped.k, grouped.v), strict=True)
        )
        longer = replace(group, key_length=group.key_length + self.length)
        found = super().attend_group(GroupedQKV(longer, grouped.q, k, v), batch, keys, context)
        if context.trace is not None and context.trace.attention:
            # A trace has the weights of the document's own tokens.
            weights = context.trace.attention_weights[self.name]
            weights[-count:] = [each[..., self.length :] for each in weights[-count:]]
        return found

    def score_bias(
        self, grouped: GroupedQKV, batch: Ragged, keys: Ragged, context: ForwardContext
    ) -> tuple[Tensor | None, bool]:
        """The bias of the document's own keys, and 0 for those of the prefix."""
        group, p = grouped.group, self.length
        own = replace(group, key_length=group.key_length - p)
        plain = GroupedQKV(own, grouped.q, grouped.k[:, :, p:], grouped.v[:, :, p:])
        bias, causal = super().score_bias(plain, batch, keys, context)
        if causal:
            shape = group.length, group.length
            bias = torch.full(shape, MASKED, device=grouped.q.device, dtype=grouped.q.dtype)
            bias = bias.triu(1)[None, None]
        return None if bias is None else F.pad(bias, (p, 0)), False

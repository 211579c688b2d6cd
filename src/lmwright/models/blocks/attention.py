"""Attention inside each document, and from each document to its partner in another stream.

Letters in names: n queries and k keys of a stream, d width, b documents of one length, m heads,
q and s queries and keys of one document, h head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.blocks.build import Place
from lmwright.models.blocks.context import Flow, Kept
from lmwright.models.blocks.norm import norm
from lmwright.models.blocks.positions import Buckets, Relative, beside, turned, turns
from lmwright.models.core import spec
from lmwright.models.core.matmul import Linear, linear
from lmwright.models.core.ragged import Group, Ragged

MASKED = -1e30
"""Added to the score of a key that is not seen. Finite, so that a query that sees none takes from
all of them alike and not NaN."""


@dataclass(frozen=True)
class Ends:
    """Each document's first or last token alone: their ``rows`` of the stream, and their batch."""

    batch: Ragged
    rows: list[int]

    @classmethod
    def of(cls, batch: Ragged, last: bool) -> Ends:
        """The first or last tokens of a batch."""
        return cls(batch.ends(last), batch.end_rows(last))


@dataclass(frozen=True)
class Table:
    """The documents of a group: queries (b, m, q, h), keys and values (b, kv heads, s, h)."""

    group: Group
    q: Tensor
    k: Tensor
    v: Tensor


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, equation 1) and its kin: see ``spec.Attention``.

    Documents of equal lengths share one product; nothing is padded.
    """

    mixes_tokens = True

    def __init__(self, setting: spec.Attention, place: Place) -> None:
        super().__init__()
        self.setting, self.name, self.width = setting, place.name, place.width
        self.site = next(place.sites)
        h = setting.head_width
        self.sizes = [setting.heads * h, setting.kv_heads * h, setting.kv_heads * h]
        if setting.reads and not setting.each_layer:
            self.q = Linear(place.width, self.sizes[0], setting.bias)
            self.kv = Linear(place.widths[setting.reads], sum(self.sizes[1:]), setting.bias)
        else:
            # One product for queries, keys and values: a third of the passes over the stream.
            self.qkv = Linear(place.width, sum(self.sizes), setting.bias)
        self.out = Linear(self.sizes[0], place.width, setting.out_bias)
        self.q_norm, self.k_norm = norm(setting.head_norm, h), norm(setting.head_norm, h)
        known = setting.positions
        self.buckets = Buckets(known, setting.heads) if isinstance(known, spec.Buckets) else None
        self.relative = (
            Relative(known, setting.heads, h, place.width)
            if isinstance(known, spec.Relative)
            else None
        )

    def forward(self, x_nd: Tensor, flow: Flow, only: Ends | None = None) -> Tensor:
        """What each token takes from those that it sees: (n, d); with ``only``, these rows."""
        batch = flow.batch if only is None else only.batch
        q, k, v, keys = self.mapped(x_nd, flow, only)
        rows = [
            self.mixed(table, batch, keys, flow).transpose(1, 2).flatten(0, 1)
            for table in self.tables(q, k, v, batch, keys, flow)
        ]
        mixed_nmh = torch.cat(rows)
        if flow.notes is not None and self.name in flow.notes.heads:
            mixed_nmh = mixed_nmh * flow.notes.heads[self.name].to(mixed_nmh.dtype)[:, None]
        return self.out(mixed_nmh.flatten(1))

    def mapped(
        self, x_nd: Tensor, flow: Flow, only: Ends | None
    ) -> tuple[Tensor, Tensor, Tensor, Ragged]:
        """Queries (n, m, h), keys and values (k, kv heads, h), ready, and the keys' stream."""
        setting = self.setting
        rows_nd = x_nd if only is None else x_nd[only.rows]
        if setting.reads and not setting.each_layer:
            kept = self.kept(flow)
            return self.q_norm(self.by_head(self.q(rows_nd))), kept.k, kept.v, kept.batch
        if setting.reads:
            x_kd = flow.read[setting.reads].inputs[flow.layer]
            keys = flow.read[setting.reads].batch
        else:
            x_kd, keys = x_nd, flow.batch
        if x_kd is rows_nd:
            parts = self.qkv(x_nd).split(self.sizes, dim=-1)
        else:
            cut = [self.sizes[0], sum(self.sizes[1:])]
            weight_q, weight_kv = self.qkv.weight.split(cut)
            bias_q, bias_kv = (None, None) if self.qkv.bias is None else self.qkv.bias.split(cut)
            k_and_v = linear(x_kd, weight_kv, bias_kv).split(self.sizes[1:], dim=-1)
            parts = (linear(rows_nd, weight_q, bias_q), *k_and_v)
        q, k, v = map(self.by_head, parts)
        q, k = self.q_norm(q), self.k_norm(k)
        if isinstance(setting.positions, spec.Rotary):
            batch = flow.batch if only is None else only.batch
            q = turned(q, self.angles(flow, batch, q), setting.positions)
            k = turned(k, self.angles(flow, keys, k), setting.positions)
        return q, k, v, keys

    def by_head(self, x_n: Tensor) -> Tensor:
        """(n, m * h) -> (n, m, h)."""
        return x_n.unflatten(-1, (-1, self.setting.head_width))

    def kept(self, flow: Flow) -> Kept:
        """Keys and values from the last states of the stack that is read, made once a document."""
        kept: Kept | None = None if flow.cache is None else flow.cache.kept.get(self.name)
        if kept is None:
            source = flow.read[self.setting.reads]
            k, v = map(self.by_head, self.kv(source.last).split(self.sizes[1:], dim=-1))
            kept = Kept(self.k_norm(k), v, source.batch)
            if flow.cache is not None:
                flow.cache.kept[self.name] = kept
        return kept

    def angles(self, flow: Flow, batch: Ragged, like: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary angles of a stream's tokens, made once for all layers that turn alike."""
        setting: Any = self.setting.positions

        def make() -> tuple[Tensor, Tensor]:
            # Some scalings depend on a document's length, so each is turned by itself.
            ends = [
                int(part.max()) + 1 for part in flow.batch.positions_n.split(flow.batch.lengths())
            ]
            parts = zip(batch.positions_n.split(batch.lengths()), ends, strict=True)
            cos, sin = zip(*(turns(setting, *part) for part in parts), strict=True)
            found = torch.cat(cos).to(like.dtype), torch.cat(sin).to(like.dtype)
            return beside(found, setting)

        return flow.once((setting, id(batch)), make)

    def tables(
        self, q: Tensor, k: Tensor, v: Tensor, batch: Ragged, keys: Ragged, flow: Flow
    ) -> Iterator[Table]:
        """Queries, keys and values of each group of documents that share a product."""
        if flow.cache is not None and not self.setting.reads:
            yield from self.cached(q, k, v, flow)
            return
        groups = batch.groups(None if keys is batch else keys)
        qs = q.split([group.stop - group.start for group in groups])
        counts = [group.key_stop - group.key_start for group in groups]
        for group, *parts in zip(groups, qs, k.split(counts), v.split(counts), strict=True):
            yield Table(group, *(by_document(part, len(group.documents)) for part in parts))

    def cached(self, q: Tensor, k: Tensor, v: Tensor, flow: Flow) -> Iterator[Table]:
        """The same where keys and values of former tokens are in the cache."""
        assert flow.cache is not None
        past, batch = flow.cache.lengths, flow.batch
        known = self.setting.positions
        if self.setting.sees.startswith("ordered") or (
            batch.segments_n is not None and isinstance(known, spec.Relative) and known.segments
        ):
            raise BadInput(
                "attention by segments or an order of factorisation", "one that reads on by places"
            )
        k_all, v_all = flow.cache.extend(self.name, k, v, batch)

        def make() -> list[Group]:
            last = [a + b for a, b in zip(past, batch.lengths(), strict=True)]
            own = batch if len(q) == len(batch.tokens_n) else batch.ends(last=True)
            return own.groups(
                replace(batch, cu_seqlens=tuple(sum(last[:j]) for j in range(len(last) + 1)))
            )

        for group in flow.once(("read on", len(q)), make):
            those = slice(group.first, group.first + len(group.documents))
            part = by_document(q[group.start : group.stop], len(group.documents))
            length = group.key_length
            yield Table(group, part, k_all[those, :, :length], v_all[those, :, :length])

    def mixed(self, table: Table, batch: Ragged, keys: Ragged, flow: Flow) -> Tensor:
        """The values that the queries of one group take: (b, m, q, h)."""
        setting, noise, notes = self.setting, flow.noise, flow.notes
        added, causal = self.added(table, batch, keys, flow)
        if notes is not None and notes.maps:
            k, v = (repeated(part, setting.heads) for part in (table.k, table.v))
            weights = weights_of(table.q, k, added, setting.scale, setting.cap)
            notes.weights.setdefault(self.name, []).extend(weights.detach().unbind(0))
            return weights @ v
        if noise is not None and setting.dropout:
            group, rate = table.group, setting.dropout
            own = slice(group.first, group.first + len(group.documents))
            firsts = batch.firsts and batch.firsts[own]
            mask = noise.weights(group, setting.heads, table.q, rate, self.site, firsts)
            k, v = (repeated(part, setting.heads) for part in (table.k, table.v))
            if setting.cap or (added is not None and added.requires_grad):
                weights = weights_of(table.q, k, added, setting.scale, setting.cap)
                return (weights * mask.view_as(weights)) @ v
            mixed: Tensor = AttendWithNoise.apply(table.q, k, v, added, setting.scale, mask)
            return mixed
        if setting.cap:
            k, v = (repeated(part, setting.heads) for part in (table.k, table.v))
            return weights_of(table.q, k, added, setting.scale, setting.cap) @ v
        return attend(table, added, causal, setting.scale)

    def added(
        self, table: Table, batch: Ragged, keys: Ragged, flow: Flow
    ) -> tuple[Tensor | None, bool]:
        """What is added to the scores, of a shape that spreads over (b, m, q, s), or None.

        And whether that is nothing but the mask of causal attention from first token to last, in
        which case it is None where the fused product can do without.
        """
        setting, known = self.setting, self.setting.positions
        name = (id(batch), table.group.start, setting.reads)
        at = flow.once(("at", *name), lambda: where(table, batch, keys, flow, setting))
        explicit = (
            setting.cap or flow.notes is not None or (flow.noise is not None and setting.dropout)
        )
        plain = not setting.window and not isinstance(
            known, (spec.Slopes, spec.Buckets, spec.Relative)
        )
        if setting.sees == "causal" and plain and not explicit and at.whole:
            return None, True
        masks = ("mask", *name, setting.sees, setting.window)
        mask = flow.once(masks, lambda: mask_of(setting, at, table, batch, keys))
        parts: list[Tensor] = [] if mask is None else [mask.to(table.q.dtype)[:, None]]
        if isinstance(known, spec.Slopes):
            distances = (at.queries_bq[:, :, None] - at.keys_bs[:, None]).abs()
            slopes = torch.tensor(known.slopes, dtype=table.q.dtype)
            parts.append(-slopes[:, None, None] * distances[:, None])
        if self.buckets is not None:
            weight, buckets = self.buckets.weight, self.buckets
            parts.append(
                flow.once((id(weight), known, *name), lambda: buckets(at.queries_bq, at.keys_bs))
            )
        if self.relative is not None:
            own = self.relative.added(table.q, table.k, at.queries_bq, at.keys_bs, at.other_bqs)
            parts.append(own * setting.scale)
        return (sum(parts[1:], parts[0]) if parts else None), False


@dataclass(frozen=True)
class Where:
    """Places of a group's queries (b, q) and keys (b, s); b is 1 where all documents have the same.

    ``whole``: every document's queries are all of its keys' tokens. ``other_bqs``: which keys are
    of another segment than the query, if segments are known.
    """

    queries_bq: Tensor
    keys_bs: Tensor
    whole: bool
    other_bqs: Tensor | None


def where(table: Table, batch: Ragged, keys: Ragged, flow: Flow, setting: spec.Attention) -> Where:
    """The places of a group's queries and keys."""
    group, own = table.group, slice(table.group.start, table.group.stop)
    shape = len(group.documents), -1
    queries_bq = batch.positions_n[own].view(shape)
    if flow.cache is not None and not setting.reads:
        keys_bs = torch.arange(group.key_length)[None]
        return Where(alike(queries_bq), keys_bs, group.length == group.key_length, None)
    others = slice(group.key_start, group.key_stop)
    keys_bs = keys.positions_n[others].view(shape)
    other = None
    if batch.segments_n is not None and keys.segments_n is not None:
        one, two = batch.segments_n[own].view(shape), keys.segments_n[others].view(shape)
        other = one[:, :, None] != two[:, None]
    return Where(alike(queries_bq), alike(keys_bs), batch is keys, other)


def alike(places_bq: Tensor) -> Tensor:
    """Places (b, q), or (1, q) if all rows are the same."""
    return places_bq[:1] if bool((places_bq == places_bq[:1]).all()) else places_bq


def mask_of(
    setting: spec.Attention, at: Where, table: Table, batch: Ragged, keys: Ragged
) -> Tensor | None:
    """0 where a query sees a key and ``MASKED`` elsewhere (b or 1, q, s); None: it sees all."""
    back_bqs = at.queries_bq[:, :, None] - at.keys_bs[:, None]  # how far back a key stands
    seen = torch.ones_like(back_bqs, dtype=torch.bool)
    if setting.sees in ("causal", "prefix"):
        seen = back_bqs >= 0
    if setting.sees == "prefix" and batch.prefixes is not None:
        first = table.group.first
        ends = torch.tensor(batch.prefixes[first : first + len(table.group.documents)])
        seen = seen | (at.keys_bs[:, None] < ends[:, None, None])
    if setting.sees.startswith("ordered"):
        if batch.ranks_n is None or keys.ranks_n is None:
            raise TypeError("this attention needs the ranks of an order of factorisation")
        shape, group = (len(table.group.documents), -1), table.group
        own = batch.ranks_n[group.start : group.stop].view(shape)[:, :, None]
        other = keys.ranks_n[group.key_start : group.key_stop].view(shape)[:, None]
        seen = other < own if setting.sees == "ordered_before" else other <= own
    if setting.window:
        seen = seen & (back_bqs.abs() < setting.window)
    if bool(seen.all()):
        return None
    return torch.zeros(seen.shape).masked_fill(~seen, MASKED)


def by_document(x_nmh: Tensor, documents: int) -> Tensor:
    """Rows of documents of one length (n, m, h) -> (documents, m, length, h)."""
    return x_nmh.unflatten(0, (documents, -1)).transpose(1, 2)


def repeated(x_bmsh: Tensor, heads: int) -> Tensor:
    """Keys or values with each head repeated for the queries that share it."""
    times = heads // x_bmsh.shape[1]
    return x_bmsh if times == 1 else x_bmsh.repeat_interleave(times, dim=1)


def attend(table: Table, added: Tensor | None, causal: bool, scale: float) -> Tensor:
    """Attention without noise by the fused product: (b, m, q, h)."""
    q, k, v = table.q, table.k, table.v
    heads = q.shape[1]
    if k.shape[1] != heads and added is None and not causal:
        # Queries that share keys and see all of them are but more queries.
        folded = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
        mixed = F.scaled_dot_product_attention(folded, k, v, scale=scale)
        return mixed.unflatten(2, (-1, q.shape[2])).flatten(1, 2)
    k, v = repeated(k, heads), repeated(v, heads)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=added, is_causal=causal and q.shape[2] > 1, scale=scale
    )


def weights_of(q: Tensor, k: Tensor, added: Tensor | None, scale: float, cap: float) -> Tensor:
    """Attention weights (b, m, q, s), by the formula: the truth that the fast paths must meet."""
    scores = q @ k.transpose(-1, -2) * scale
    if cap:
        scores = cap * torch.tanh(scores / cap)
    return torch.softmax(scores if added is None else scores + added, dim=-1)


class AttendWithNoise(torch.autograd.Function):
    """Attention with dropout on its weights, and its gradient written out.

    With P the softmax, M the mask, A = P * M and O = A V, the gradient with respect to the
    scores is (dO Vᵀ) * A - P * rowsum(dO * O): the row sums come from O, so the mask itself
    need not be kept (the identity of Dao et al. 2022, section 3.1, which dropout keeps).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        q_bmqh: Tensor,
        k_bmsh: Tensor,
        v_bmsh: Tensor,
        added: Tensor | None,
        scale: float,
        mask_gqs: Tensor,
    ) -> Tensor:
        """-> (b, m, q, h); ``added`` spreads over (b, m, q, s), the mask is (b * m, q, s)."""
        q, k, v = (part.flatten(0, 1) for part in (q_bmqh, k_bmsh, v_bmsh))
        scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=scale)
        if added is not None:
            scores.unflatten(0, q_bmqh.shape[:2]).add_(added)
        p_gqs = torch.softmax(scores, dim=-1)
        a_gqs = mask_gqs.mul_(p_gqs)
        o = torch.bmm(a_gqs, v)
        ctx.scale, ctx.shape = scale, q_bmqh.shape[:2]
        ctx.save_for_backward(q, k, v, p_gqs, a_gqs, o)
        return o.unflatten(0, ctx.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradients with respect to queries, keys and values."""
        q, k, v, p_gqs, a_gqs, o = ctx.saved_tensors
        do = gradients[0].flatten(0, 1)
        ds_gqs = torch.bmm(do, v.transpose(1, 2)).mul_(a_gqs)
        ds_gqs.addcmul_(p_gqs, (do * o).sum(-1, keepdim=True), value=-1)
        parts = (
            torch.bmm(ds_gqs, k).mul_(ctx.scale),
            torch.bmm(ds_gqs.transpose(1, 2), q).mul_(ctx.scale),
            torch.bmm(a_gqs.transpose(1, 2), do),
        )
        return *(part.unflatten(0, ctx.shape) for part in parts), None, None, None

"""Self-attention within each document, and cross-attention to its pair in another stream.

Letters in names: n queries and k keys of a stream, d width, b documents of one length, m heads,
q and s queries and keys of one document, h head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.blocks.build import BuildContext
from lmwright.models.blocks.context import CrossKV, ForwardContext
from lmwright.models.blocks.norm import norm
from lmwright.models.blocks.positions import (
    T5Bias,
    TransformerXL,
    apply_rotary,
    rotary_cos_sin,
    rotary_factors,
)
from lmwright.models.core import spec
from lmwright.models.core.linear import DenseLinear
from lmwright.models.core.ragged import Group, Ragged

MASKED = -1e30
"""The bias of a masked score. Finite, so that a query whose keys are all masked gets the mean of
their values and not NaN."""
KERNEL_WIDTHS, KERNEL_WIDEST = 8, 256
"""Head widths that the fused kernel takes: multiples of the one, up to the other."""


@dataclass(frozen=True)
class BoundaryTokens:
    """Each document's first or last token: their ``rows`` in the stream, and the batch of them."""

    batch: Ragged
    rows: list[int]

    @classmethod
    def of(cls, batch: Ragged, last: bool) -> BoundaryTokens:
        """The first or last tokens of a batch."""
        return cls(batch.boundary_tokens(last), batch.boundary_rows(last))


@dataclass(frozen=True)
class GroupedQKV:
    """Queries (b, m, q, h), keys and values (b, kv heads, s, h) of a group of documents."""

    group: Group
    q: Tensor
    k: Tensor
    v: Tensor


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, equation 1): see ``spec.Attention``.

    Documents of equal lengths share one product; nothing is padded.
    """

    mixes_tokens = True

    def __init__(self, setting: spec.Attention, build: BuildContext) -> None:
        super().__init__()
        self.setting, self.name, self.width = setting, build.name, build.width
        self.dropout_id = next(build.dropout_ids)
        h = setting.head_width
        self.sizes = [setting.heads * h, setting.kv_heads * h, setting.kv_heads * h]
        if setting.cross_attends and not setting.each_layer:
            self.q = DenseLinear(build.width, self.sizes[0], setting.bias)
            source_width = build.stack_widths[setting.cross_attends]
            self.kv = DenseLinear(source_width, self.sizes[1:], setting.bias)
        else:
            # One product for queries, keys and values: a third of the passes over the stream.
            self.qkv = DenseLinear(build.width, self.sizes, setting.bias)
        self.out = DenseLinear(self.sizes[0], build.width, setting.out_bias)
        self.q_norm, self.k_norm = norm(setting.head_norm, h), norm(setting.head_norm, h)
        known = setting.positions
        self.buckets: T5Bias | None = None
        self.relative: TransformerXL | None = None
        if isinstance(known, spec.T5Bias):
            self.buckets = T5Bias(known, setting.heads)
        if isinstance(known, spec.TransformerXL):
            self.relative = TransformerXL(known, setting.heads, h, build.width)

    def forward(
        self, x_nd: Tensor, context: ForwardContext, only: BoundaryTokens | None = None
    ) -> Tensor:
        """(n, d) -> (n, d); with ``only``, the results of these rows alone."""
        batch = context.batch if only is None else only.batch
        q, k, v, keys = self.project(x_nd, context, only)
        kernel = stream_kernel(q.device, context.precision)
        if kernel is not None and self.fits_kernel(batch, keys, context):
            heads_nmh = attend_stream(
                kernel, q, k, v, (batch, keys), self.setting, context.precision
            )
        else:
            rows = [
                self.attend_group(grouped, batch, keys, context).transpose(1, 2).flatten(0, 1)
                for grouped in self.group(q, k, v, batch, keys, context)
            ]
            heads_nmh = torch.cat(rows)
        if context.trace is not None and self.name in context.trace.head_factors:
            heads_nmh = (
                heads_nmh * context.trace.head_factors[self.name].to(heads_nmh.dtype)[:, None]
            )
        return self.out(heads_nmh.flatten(1))

    def project(
        self, x_nd: Tensor, context: ForwardContext, only: BoundaryTokens | None
    ) -> tuple[Tensor, Tensor, Tensor, Ragged]:
        """Queries (n, m, h), keys and values (k, kv heads, h), and the stream of the keys."""
        setting = self.setting
        rows_nd = x_nd if only is None else x_nd[only.rows]
        if setting.cross_attends and not setting.each_layer:
            cross = self.cross_kv(context)
            return self.q_norm(self.by_head(self.q(rows_nd))), cross.k, cross.v, cross.batch
        if setting.cross_attends:
            x_kd = context.states[setting.cross_attends].inputs[context.layer]
            keys = context.states[setting.cross_attends].batch
        else:
            x_kd, keys = x_nd, context.batch
        if x_kd is rows_nd:
            parts = self.qkv(x_nd).split(self.sizes, dim=-1)
        else:
            cut = [self.sizes[0], sum(self.sizes[1:])]
            q_n, kv_k = self.qkv.apart([rows_nd, x_kd], cut)
            parts = (q_n, *kv_k.split(self.sizes[1:], dim=-1))
        q, k, v = map(self.by_head, parts)
        q, k = self.q_norm(q), self.k_norm(k)
        if isinstance(setting.positions, spec.Rotary):
            batch = context.batch if only is None else only.batch
            q = apply_rotary(q, self.rotary_angles(context, batch, q), setting.positions)
            k = apply_rotary(k, self.rotary_angles(context, keys, k), setting.positions)
        return q, k, v, keys

    def by_head(self, x_n: Tensor) -> Tensor:
        """(n, m * h) -> (n, m, h)."""
        return x_n.unflatten(-1, (-1, self.setting.head_width))

    def cross_kv(self, context: ForwardContext) -> CrossKV:
        """Keys and values from the last states of the attended stack, computed once a document."""
        cache = context.cache
        cross: CrossKV | None = None if cache is None else cache.entries.get(self.name)
        if cross is None:
            source = context.states[self.setting.cross_attends]
            k, v = map(self.by_head, self.kv(source.last).split(self.sizes[1:], dim=-1))
            cross = CrossKV(self.k_norm(k), v, source.batch)
            if cache is not None:
                cache.entries[self.name] = cross
        return cross

    def rotary_angles(
        self, context: ForwardContext, batch: Ragged, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rotary factors of a stream's tokens, computed once for all layers of equal settings."""
        setting: Any = self.setting.positions

        def make() -> tuple[Tensor, Tensor]:
            # Some scalings depend on a document's length, so each has its own angles.
            whole = context.batch
            longest = [int(part.max()) + 1 for part in whole.positions_n.split(whole.lengths())]
            parts = zip(batch.positions_n.split(batch.lengths()), longest, strict=True)
            cos, sin = zip(*(rotary_cos_sin(setting, *part) for part in parts), strict=True)
            found = torch.cat(cos).to(like.dtype), torch.cat(sin).to(like.dtype)
            return rotary_factors(found, setting)

        return context.memoised((setting, id(batch)), make)

    def group(
        self, q: Tensor, k: Tensor, v: Tensor, batch: Ragged, keys: Ragged, context: ForwardContext
    ) -> Iterator[GroupedQKV]:
        """Iterate over the groups of documents that share a product."""
        if context.cache is not None and not self.setting.cross_attends:
            yield from self.group_with_cache(q, k, v, context)
            return
        groups = batch.groups(None if keys is batch else keys)
        qs = q.split([group.stop - group.start for group in groups])
        counts = [group.key_stop - group.key_start for group in groups]
        for group, *parts in zip(groups, qs, k.split(counts), v.split(counts), strict=True):
            yield GroupedQKV(
                group, *(split_documents(part, len(group.documents)) for part in parts)
            )

    def group_with_cache(
        self, q: Tensor, k: Tensor, v: Tensor, context: ForwardContext
    ) -> Iterator[GroupedQKV]:
        """Iterate over the groups with keys and values of former tokens from the cache."""
        assert context.cache is not None
        past, batch = context.cache.lengths, context.batch
        known = self.setting.positions
        if self.setting.mask.startswith("permutation") or (
            batch.segments_n is not None
            and isinstance(known, spec.TransformerXL)
            and known.segments
        ):
            raise BadInput(
                "attention by segments or an order of factorisation with a cache",
                "attention by positions",
            )
        cache = context.cache
        cache.extend(self.name, k, v, batch)

        def make() -> list[Group]:
            last = [a + b for a, b in zip(past, batch.lengths(), strict=True)]
            own = batch if len(q) == len(batch.tokens_n) else batch.boundary_tokens(last=True)
            return own.groups(
                replace(batch, cu_seqlens=tuple(sum(last[:j]) for j in range(len(last) + 1)))
            )

        for group in context.memoised(("groups with cache", len(q)), make):
            those = slice(group.first, group.first + len(group.documents))
            part = split_documents(q[group.start : group.stop], len(group.documents))
            yield GroupedQKV(group, part, *cache.read(self.name, those, group.key_length))

    def fits_kernel(self, batch: Ragged, keys: Ragged, context: ForwardContext) -> bool:
        """Whether a fused kernel over the whole stream computes this attention.

        It knows no bias of the scores, no softcap, no dropout and no cache, and gives no weights;
        it takes a token's place in its document for its position, so a mask by positions needs all
        of a document's tokens as queries and as keys.
        """
        setting, trace = self.setting, context.trace
        return not (
            (context.dropout_rng is not None and setting.dropout)
            or (trace is not None and trace.attention)
            or setting.logit_softcap
            or not isinstance(setting.positions, spec.Rotary | None)
            or setting.mask not in ("full", "causal")
            or ((setting.mask == "causal" or setting.window) and batch is not keys)
            or (context.cache is not None and not setting.cross_attends)
            or setting.head_width % KERNEL_WIDTHS
            or setting.head_width > KERNEL_WIDEST
        )

    def attend_group(
        self, grouped: GroupedQKV, batch: Ragged, keys: Ragged, context: ForwardContext
    ) -> Tensor:
        """Attention of one group: (b, m, q, h)."""
        setting, dropout_rng, trace = self.setting, context.dropout_rng, context.trace
        bias, causal = self.score_bias(grouped, batch, keys, context)
        if trace is not None and trace.attention:
            k, v = (repeat_kv(part, setting.heads) for part in (grouped.k, grouped.v))
            weights = attention_weights(grouped.q, k, bias, setting.scale, setting.logit_softcap)
            trace.attention_weights.setdefault(self.name, []).extend(weights.detach().unbind(0))
            return weights @ v
        if dropout_rng is not None and setting.dropout:
            group, rate = grouped.group, setting.dropout
            own = slice(group.first, group.first + len(group.documents))
            firsts = batch.firsts and batch.firsts[own]
            mask = dropout_rng.attention_weight_mask(
                group, setting.heads, grouped.q, rate, self.dropout_id, firsts
            )
            k, v = (repeat_kv(part, setting.heads) for part in (grouped.k, grouped.v))
            if setting.logit_softcap or (bias is not None and bias.requires_grad):
                weights = attention_weights(
                    grouped.q, k, bias, setting.scale, setting.logit_softcap
                )
                return (weights * mask.view_as(weights)) @ v
            attended: Tensor = AttendWithDropout.apply(grouped.q, k, v, bias, setting.scale, mask)
            return attended
        if setting.logit_softcap:
            k, v = (repeat_kv(part, setting.heads) for part in (grouped.k, grouped.v))
            return attention_weights(grouped.q, k, bias, setting.scale, setting.logit_softcap) @ v
        return fused_attention(grouped, bias, causal, setting.scale)

    def score_bias(
        self, grouped: GroupedQKV, batch: Ragged, keys: Ragged, context: ForwardContext
    ) -> tuple[Tensor | None, bool]:
        """The bias of the scores, broadcastable to (b, m, q, s), or None; and whether to pass
        ``is_causal`` to the fused kernel instead of a mask.
        """
        setting, known = self.setting, self.setting.positions
        name = (id(batch), grouped.group.start, setting.cross_attends)
        at = context.memoised(
            ("at", *name), lambda: token_positions(grouped, batch, keys, context, setting)
        )
        drops = context.dropout_rng is not None and setting.dropout
        explicit = setting.logit_softcap or context.trace is not None or drops
        plain = not setting.window and not isinstance(
            known, (spec.ALiBi, spec.T5Bias, spec.TransformerXL)
        )
        if setting.mask == "causal" and plain and not explicit and at.whole:
            return None, True
        masks = ("mask", *name, setting.mask, setting.window)
        mask = context.memoised(masks, lambda: attention_mask(setting, at, grouped, batch, keys))
        parts: list[Tensor] = [] if mask is None else [mask.to(grouped.q.dtype)[:, None]]
        if isinstance(known, spec.ALiBi):
            distances = (at.queries_bq[:, :, None] - at.keys_bs[:, None]).abs()
            slopes = grouped.q.new_tensor(known.slopes)
            parts.append(-slopes[:, None, None] * distances[:, None])
        if self.buckets is not None:
            weight, buckets = self.buckets.weight, self.buckets
            parts.append(
                context.memoised(
                    (id(weight), known, *name), lambda: buckets(at.queries_bq, at.keys_bs)
                )
            )
        if self.relative is not None:
            own = self.relative.score_bias(
                grouped.q, grouped.k, at.queries_bq, at.keys_bs, at.other_bqs
            )
            parts.append(own * setting.scale)
        return (sum(parts[1:], parts[0]) if parts else None), False


@dataclass(frozen=True)
class TokenPositions:
    """Positions of a group's queries (b, q) and keys (b, s); b is 1 where all documents agree.

    ``whole``: every document's queries are all of its keys' tokens. ``other_bqs``: True for keys
    of another segment than the query, if segments are known.
    """

    queries_bq: Tensor
    keys_bs: Tensor
    whole: bool
    other_bqs: Tensor | None


def token_positions(
    grouped: GroupedQKV,
    batch: Ragged,
    keys: Ragged,
    context: ForwardContext,
    setting: spec.Attention,
) -> TokenPositions:
    """Positions of a group's queries and keys."""
    group, own = grouped.group, slice(grouped.group.start, grouped.group.stop)
    shape = len(group.documents), -1
    queries_bq = batch.positions_n[own].view(shape)
    if context.cache is not None and not setting.cross_attends:
        keys_bs = torch.arange(group.key_length, device=queries_bq.device)[None]
        return TokenPositions(
            broadcast_if_equal(queries_bq), keys_bs, group.length == group.key_length, None
        )
    others = slice(group.key_start, group.key_stop)
    keys_bs = keys.positions_n[others].view(shape)
    other = None
    if batch.segments_n is not None and keys.segments_n is not None:
        one, two = batch.segments_n[own].view(shape), keys.segments_n[others].view(shape)
        other = one[:, :, None] != two[:, None]
    return TokenPositions(
        broadcast_if_equal(queries_bq), broadcast_if_equal(keys_bs), batch is keys, other
    )


def broadcast_if_equal(positions_bq: Tensor) -> Tensor:
    """Positions (b, q), or (1, q) if all rows are equal."""
    return positions_bq[:1] if bool((positions_bq == positions_bq[:1]).all()) else positions_bq


def attention_mask(
    setting: spec.Attention, at: TokenPositions, grouped: GroupedQKV, batch: Ragged, keys: Ragged
) -> Tensor | None:
    """0 for a visible key and ``MASKED`` elsewhere (b or 1, q, s); None where all are visible."""
    back_bqs = at.queries_bq[:, :, None] - at.keys_bs[:, None]  # distance back to the key
    visible = torch.ones_like(back_bqs, dtype=torch.bool)
    if setting.mask in ("causal", "prefix"):
        visible = back_bqs >= 0
    if setting.mask == "prefix" and batch.prefixes is not None:
        first = grouped.group.first
        own_prefixes = batch.prefixes[first : first + len(grouped.group.documents)]
        ends = at.keys_bs.new_tensor(own_prefixes)
        visible = visible | (at.keys_bs[:, None] < ends[:, None, None])
    if setting.mask.startswith("permutation"):
        if batch.ranks_n is None or keys.ranks_n is None:
            raise TypeError("this attention needs the ranks of an order of factorisation")
        shape, group = (len(grouped.group.documents), -1), grouped.group
        own = batch.ranks_n[group.start : group.stop].view(shape)[:, :, None]
        other = keys.ranks_n[group.key_start : group.key_stop].view(shape)[:, None]
        visible = other < own if setting.mask == "permutation_strict" else other <= own
    if setting.window:
        visible = visible & (back_bqs.abs() < setting.window)
    if bool(visible.all()):
        return None
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, MASKED)


class StreamKernel(Protocol):
    """Attention over documents end to end: ``torch.nn.attention.varlen.varlen_attn``.

    Of document j the queries are rows ``cu_seq_q[j]`` to ``cu_seq_q[j + 1]`` of (n, m, h), the keys
    likewise of (k, kv heads, h); cu_seqlens are int32 on the device. ``window_size`` has how many
    keys before and after its own place a query attends to, -1 for all. With ``num_splits`` 1 a
    document's bits do not depend on its neighbours.
    """

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float,
        window_size: tuple[int, int],
        enable_gqa: bool,
        num_splits: int,
    ) -> Tensor: ...


def stream_kernel(device: torch.device, precision: torch.dtype) -> StreamKernel | None:
    """The fused kernel over a stream, where the device has one for this precision: CUDA in bf16."""
    if device.type != "cuda" or precision != torch.bfloat16:
        return None
    from torch.nn.attention.varlen import varlen_attn

    return cast(StreamKernel, varlen_attn)


def attend_stream(
    kernel: StreamKernel,
    q_nmh: Tensor,
    k_kmh: Tensor,
    v_kmh: Tensor,
    batches: tuple[Ragged, Ragged],
    setting: spec.Attention,
    precision: torch.dtype,
) -> Tensor:
    """Attention (n, m, h) of all documents at once; the loop over them is its reference.

    ``batches`` are that of the queries and that of the keys.
    """
    cu_q, cu_k = (
        torch.tensor(batch.cu_seqlens, dtype=torch.int32, device=q_nmh.device) for batch in batches
    )
    longest_q, longest_k = (max(batch.lengths()) for batch in batches)
    before = setting.window - 1 if setting.window else -1
    attended = kernel(
        q_nmh.to(precision),
        k_kmh.to(precision),
        v_kmh.to(precision),
        cu_q,
        cu_k,
        longest_q,
        longest_k,
        scale=setting.scale,
        window_size=(before, 0 if setting.mask == "causal" else before),
        enable_gqa=setting.kv_heads != setting.heads,
        num_splits=1,
    )
    return attended.to(q_nmh.dtype)


def split_documents(x_nmh: Tensor, documents: int) -> Tensor:
    """Split rows of documents of one length: (n, m, h) -> (documents, m, length, h)."""
    return x_nmh.unflatten(0, (documents, -1)).transpose(1, 2)


def repeat_kv(x_bmsh: Tensor, heads: int) -> Tensor:
    """Repeat each head of keys or values for the queries that share it."""
    times = heads // x_bmsh.shape[1]
    return x_bmsh if times == 1 else x_bmsh.repeat_interleave(times, dim=1)


def fused_attention(grouped: GroupedQKV, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    """Attention without dropout by torch's fused kernel: (b, m, q, h)."""
    q, k, v = grouped.q, grouped.k, grouped.v
    heads = q.shape[1]
    if k.shape[1] != heads and bias is None and not causal:
        # Unmasked queries that share keys are but more queries.
        folded = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
        attended = F.scaled_dot_product_attention(folded, k, v, scale=scale)
        return attended.unflatten(2, (-1, q.shape[2])).flatten(1, 2)
    k, v = repeat_kv(k, heads), repeat_kv(v, heads)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=causal and q.shape[2] > 1, scale=scale
    )


def attention_weights(
    q: Tensor, k: Tensor, bias: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """Attention weights (b, m, q, s) by the formula: the reference of the fast paths."""
    scores = q @ k.transpose(-1, -2) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    return torch.softmax(scores if bias is None else scores + bias, dim=-1)


class AttendWithDropout(torch.autograd.Function):
    """Attention with dropout on its weights, with its own backward.

    With P the softmax, M the mask, A = P * M and O = A V, the gradient with respect to the
    scores is (dO Vᵀ) * A - P * rowsum(dO * O): the row sums come from O, so the mask itself
    need not be cross_kv (the identity of Dao et al. 2022, section 3.1, which dropout keeps).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        q_bmqh: Tensor,
        k_bmsh: Tensor,
        v_bmsh: Tensor,
        bias: Tensor | None,
        scale: float,
        mask_gqs: Tensor,
    ) -> Tensor:
        """-> (b, m, q, h); ``bias`` is broadcast to (b, m, q, s), the mask is (b * m, q, s)."""
        q, k, v = (part.flatten(0, 1) for part in (q_bmqh, k_bmsh, v_bmsh))
        scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=scale)
        if bias is not None:
            scores.unflatten(0, q_bmqh.shape[:2]).add_(bias)
        p_gqs = torch.softmax(scores, dim=-1)
        a_gqs = mask_gqs.mul_(p_gqs)
        o = torch.bmm(a_gqs, v)
        ctx.scale, ctx.shape = scale, q_bmqh.shape[:2]
        ctx.save_for_backward(q, k, v, p_gqs, a_gqs, o)
        return o.unflatten(0, ctx.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients with respect to queries, keys and values."""
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

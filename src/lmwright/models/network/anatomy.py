"""Parameter counts, FLOPs, memory and a drawing of a model from its spec, without weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import nn

from lmwright.models.blocks.feed_forward import Experts
from lmwright.models.blocks.positions import T5Bias
from lmwright.models.core import spec
from lmwright.models.network.network import Network, build, parameter_count

BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
"""Bytes a weight; the scales of quantised blocks come to it."""


@dataclass(frozen=True)
class Anatomy:
    """Sizes and costs of a model.

    ``parts``: parameters of each kind of block. ``flops`` of a token's forward pass, products
    alone: two for each active weight, and those of attention to ``at`` tokens. ``kv``: numbers of
    the KV cache for each token.
    """

    parameters: int
    parts: dict[str, int]
    active: int
    flops: int
    at: int
    kv: int
    longest: int | None
    drawing: tuple[str, ...]

    def memory(self) -> dict[str, float]:
        """Bytes of the weights at each precision."""
        return {name: each * self.parameters for name, each in BYTES.items()}


def anatomy(setting: spec.ModelSpec, head: spec.Head | None, at: int = 1024) -> Anatomy:
    """Compute the anatomy of a spec's network."""
    network = build(setting, head)
    ops = [op for stack in setting.stacks for layer in stack.layers for op in ops_of(layer)]
    kept = [op for op in ops if isinstance(op, spec.Attention) and op.mask != "full"]
    active = active_weights(network)
    pairs = sum(
        4 * op.heads * op.head_width * min(at, op.window or at)
        for op in ops
        if isinstance(op, spec.Attention)
    )
    return Anatomy(
        parameters=parameter_count(network),
        parts=parts_of(network),
        active=active,
        flops=2 * active + pairs,
        at=at,
        kv=sum(2 * op.kv_heads * op.head_width for op in kept),
        longest=setting.longest,
        drawing=tuple(drawing(setting, head)),
    )


def ops_of(layer: Sequence[spec.Sublayer]) -> Iterator[Any]:
    """Iterate over the ops of a layer, those of branches too."""
    for sublayer in layer:
        if isinstance(sublayer.op, spec.Parallel):
            yield from (branch.op for branch in sublayer.op.branches)
        else:
            yield sublayer.op


def parts_of(network: Network) -> dict[str, int]:
    """Parameters in embeddings, in each kind of op, in norms and in the head."""
    found: Counter[str] = Counter()
    for name, weight in network.named_parameters():
        found[part_of(network, name)] += weight.numel()
    return dict(found.most_common())


def part_of(network: Network, name: str) -> str:
    """The part of the network that a weight belongs to."""
    words = name.split(".")
    if words[0] == "head":
        return "head"
    if "embedding" in words:
        return "norms" if "norm" in words else "embedding"
    if any(word in NORMS for word in words):
        return "norms"
    for length in range(len(words), 0, -1):
        module = network.get_submodule(".".join(words[:length])) if length < len(words) else None
        kind = type(module).__name__ if module is not None else ""
        if kind in OPS:
            return OPS[kind]
    return "other"


NORMS = ("pre_norm", "branch_norm", "post_norm", "norm", "norms", "q_norm", "k_norm")
OPS = {
    "Attention": "attention",
    "FeedForward": "feed-forward",
    "Experts": "experts",
    "Recurrent": "recurrent",
    "Convolution": "convolution",
    "Projection": "projection",
}


def active_weights(network: Network) -> int:
    """Active weights of a token's forward pass: matrices except tables, top-k experts of all."""
    tables = {id(s.embedding.tokens.weight) for s in network.stacks.values() if s.embedding.tokens}  # type: ignore[union-attr]
    out = network.head.out.weight if network.head is not None and network.head.out else None
    whole = 0 if out is None or id(out) not in tables else out.numel()
    for name, weight in network.named_parameters():
        path, _, leaf = name.rpartition(".")
        is_table = isinstance(network.get_submodule(path), nn.Embedding | T5Bias)
        if weight.ndim > 1 and not is_table and "bias" not in leaf:
            whole += weight.numel()
    for module in network.modules():
        if isinstance(module, Experts):
            each = module.up.weight[0].numel() + module.down.weight[0].numel()
            whole -= (module.setting.experts - module.setting.top_k) * each
    return whole


def drawing(setting: spec.ModelSpec, head: spec.Head | None) -> Iterator[str]:
    """Lines that draw the network from input to output, equal layers once."""
    for stack in setting.stacks:
        yield f"{stack.name} (width {stack.width})"
        yield f"├─ embedding: {of_embedding(stack)}"
        for layer, same in groupby(stack.layers):
            yield f"├─ {len(list(same))} ×"
            for sublayer in layer:
                yield f"│   {of_sublayer(sublayer)}"
        yield f"└─ {of_norm(stack.norm) or 'states'}"
    if setting.scalar_mix:
        yield "mix of the states after each layer"
    if head is not None:
        yield f"head: {of_head(head)}"


def of_embedding(stack: spec.Stack) -> str:
    """An embedding in words."""
    known, words = stack.embedding, []
    if known.vocabulary:
        words.append(f"{known.vocabulary:,} tokens")
    if known.scale != 1.0:
        words[-1:] = [f"{words[-1]} × {known.scale:.4g}"]
    if known.vector:
        words.append("one vector")
    if known.sinusoids:
        words.append("sinusoids of positions")
    elif known.positions:
        words.append(f"{known.positions:,} positions")
    if known.segments:
        words.append(f"{known.segments} segments")
    return " + ".join(words) + (f" → {of_norm(known.norm)}" if known.norm else "")


def of_sublayer(sublayer: spec.Sublayer) -> str:
    """A sublayer in words."""
    steps = [of_norm(sublayer.pre_norm), of_op(sublayer.op), of_norm(sublayer.branch_norm)]
    inner = " → ".join(step for step in steps if step)
    added = f"x + ({inner})" if sublayer.residual else inner
    return f"{added} → {of_norm(sublayer.post_norm)}" if sublayer.post_norm else added


def of_norm(norm: spec.Norm | None) -> str:
    """A norm in words."""
    return "" if norm is None else {"layer": "LayerNorm", "rms": "RMSNorm"}[norm.kind]


def of_op(op: Any) -> str:
    """An op in words."""
    if isinstance(op, spec.Parallel):
        parts = [" → ".join(filter(None, (of_norm(b.pre_norm), of_op(b.op)))) for b in op.branches]
        return "[" + " + ".join(parts) + "]"
    if isinstance(op, spec.Attention):
        return of_attention(op)
    if isinstance(op, spec.FeedForward):
        return f"{'gated ' if op.gated else ''}{op.activation} {op.inner:,}"
    if isinstance(op, spec.Experts):
        shared = f" + a shared one of {op.shared:,}" if op.shared else ""
        return f"{op.top_k} of {op.experts} experts of {op.inner:,}{shared}"
    if isinstance(op, spec.Recurrent):
        way = "bidirectional" if op.bidirectional else "backward" if op.backward else "forward"
        return f"{op.cell} {op.hidden:,} {way}"
    if isinstance(op, spec.Convolution):
        return f"convolutions {', '.join(map(str, op.widths))} × {op.channels:,} {op.activation}"
    return f"projection to {op.outputs:,}"


def of_attention(op: spec.Attention) -> str:
    """An attention in words."""
    heads = f"{op.heads} heads"
    if op.kv_heads != op.heads:
        heads += f" on {op.kv_heads}"
    words = [f"attention {heads} of {op.head_width}", op.mask]
    if op.window:
        words.append(f"window {op.window:,}")
    if op.cross_attends:
        words.append(f"to {op.cross_attends}")
    if isinstance(op.positions, spec.Rotary):
        scaled = f" scaled ({op.positions.scaling.kind})" if op.positions.scaling else ""
        words.append(f"rotary {op.positions.base:,.0f}{scaled}")
    elif op.positions is not None:
        words.append(POSITIONS[op.positions.kind])
    return ", ".join(words)


POSITIONS = {
    "alibi": "ALiBi",
    "t5bias": "bucketed relative bias",
    "transformer_xl": "Transformer-XL positions",
}


def of_head(head: spec.Head) -> str:
    """A head in words."""
    words = (
        []
        if head.pool == "none"
        else [f"{head.pool} token" if head.pool in ("first", "last") else head.pool]
    )
    if head.dense:
        words.append(f"dense {head.dense.outputs:,} {head.dense.activation}")
    if head.outputs:
        words.append(f"{head.outputs:,} outputs" + (" by the table's rows" if head.share else ""))
    return " → ".join(words)

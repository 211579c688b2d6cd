"""Attention heads taken out of a network: a smaller one that gives what masking them gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmwright.core.errors import BadInput, nearest
from lmwright.models import spec
from lmwright.models.blocks.attention import Attention
from lmwright.models.network import Network, build, fill


@dataclass(frozen=True)
class Kept:
    """The attention of a sublayer, and which of its heads and heads of keys remain."""

    path: str
    attention: Attention
    heads: list[int]
    keys: list[int]


def prune_heads(network: Network, heads: Mapping[str, Sequence[int]]) -> Network:
    """The network without some heads (Michel et al. 2019), named by the sublayer that they are in.

    Sublayers are named as in ``Notes`` (``encoder.3.0``; of a branch ``decoder.3.0.1``). The
    network itself is left as it is; weights that are not cut are the same tensors in both. A table
    of distances that several attentions share is cut for the one that loses heads, which has its
    own from then on. BadInput for what has no attention or no such head, if a sublayer would have
    no head left, for a head of keys that some of its queries still read, and where other weights
    are shared with another attention.
    """
    known = dict(attentions(network))
    kept = [remaining(network, known, name, gone) for name, gone in heads.items()]
    pruned = build(
        without(network.spec, {each.attention.name: each for each in kept}), network.head_spec
    )
    cut = {
        f"{each.path}.{name}": part
        for each in kept
        for name, part in parts(each.attention, each.heads, each.keys).items()
    }
    fill(pruned, {**dict(network.named_parameters(remove_duplicate=False)), **cut})
    return pruned


def attentions(network: Network) -> Iterator[tuple[str, tuple[str, Attention]]]:
    """Every attention with its path, by the name of its sublayer."""
    for path, module in network.named_modules():
        if isinstance(module, Attention):
            yield module.name, (path, module)


def remaining(
    network: Network, known: Mapping[str, tuple[str, Attention]], name: str, gone: Sequence[int]
) -> Kept:
    """What stays of one sublayer; BadInput for what cannot be taken out."""
    if name not in known:
        raise BadInput(
            f"no attention is called {name!r}", "a sublayer's name", nearest(name, known)
        )
    path, attention = known[name]
    setting = attention.setting
    unknown = sorted(set(gone) - set(range(setting.heads)))
    if unknown:
        raise BadInput(f"{name} has no head {unknown[0]}", f"heads 0 to {setting.heads - 1}")
    heads = [head for head in range(setting.heads) if head not in gone]
    if not heads:
        raise BadInput(f"all {setting.heads} heads of {name}", "at least one head that stays")
    refuse_shared(network, name, path)
    times = setting.heads // setting.kv_heads
    keys = sorted({head // times for head in heads})
    if len(keys) * times != len(heads):
        group = next(head // times for head in gone if head // times in keys)
        first = group * times
        raise BadInput(
            f"some of the heads {first} to {first + times - 1} of {name}, which share keys",
            "all of them or none",
        )
    return Kept(path, attention, heads, keys)


def refuse_shared(network: Network, name: str, path: str) -> None:
    """BadInput if another module has a weight of this attention too, but a table of distances."""
    weights = network.get_submodule(path).named_parameters()
    own = {id(weight) for name, weight in weights if name != "buckets.weight"}
    others = (
        each
        for each, weight in network.named_parameters(remove_duplicate=False)
        if id(weight) in own and not each.startswith(f"{path}.")
    )
    if (other := next(others, None)) is not None:
        raise BadInput(
            f"{name} shares weights with {other}", "an attention with weights of its own"
        )


def without(setting: spec.ModelSpec, kept: Mapping[str, Kept]) -> spec.ModelSpec:
    """The spec with fewer heads where some are gone."""

    def cut(op: Any, name: str) -> Any:
        if isinstance(op, spec.Parallel):
            branches = enumerate(op.branches)
            return replace(
                op, branches=tuple(replace(b, op=cut(b.op, f"{name}.{n}")) for n, b in branches)
            )
        if name not in kept:
            return op
        heads, known = kept[name].heads, op.positions
        if isinstance(known, spec.Slopes):
            known = replace(known, slopes=tuple(known.slopes[head] for head in heads))
        elif isinstance(known, spec.Buckets):
            known = replace(known, share="")
        count = len(kept[name].keys)
        return replace(op, heads=len(heads), kv_heads=count, positions=known)

    stacks = []
    for stack in setting.stacks:
        layers = tuple(
            tuple(
                replace(each, op=cut(each.op, f"{stack.name}.{number}.{place}"))
                for place, each in enumerate(layer)
            )
            for number, layer in enumerate(stack.layers)
        )
        stacks.append(replace(stack, layers=layers))
    return replace(setting, stacks=tuple(stacks))


def parts(attention: Attention, heads: list[int], keys: list[int]) -> dict[str, Tensor]:
    """The weights of an attention that has these heads alone, by their names in it."""
    h = attention.setting.head_width
    q, kv = numbers(heads, h), numbers(keys, h)
    q_rows, k_rows, _ = attention.sizes
    both = torch.cat([kv, k_rows + kv])
    rows = {"q": q, "kv": both, "qkv": torch.cat([q, q_rows + both])}
    found: dict[str, Tensor] = {}
    for name, weight in attention.named_parameters():
        if (stem := name.partition(".")[0]) in rows:
            found[name] = weight[rows[stem]]
        elif name == "out.weight":
            found[name] = weight[:, q]
        elif name in ("buckets.weight", "relative.segments"):
            found[name] = weight[:, heads]
        elif name in ("relative.content", "relative.distance", "relative.segment"):
            found[name] = weight[heads]
        elif name == "relative.map":
            found[name] = weight[q]
    return found


def numbers(heads: Sequence[int], width: int) -> Tensor:
    """The rows of some heads among those of all."""
    return torch.cat([torch.arange(head * width, (head + 1) * width) for head in heads])

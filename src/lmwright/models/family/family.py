"""What a family's leaf says: a spec from its config, and its names of the weights, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lmwright.models.core.spec import Activation, Embedding, Head, ModelSpec
from lmwright.models.network.network import build

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""A activation by the names that published configs have for it."""


def activation_name(activation: Activation) -> str:
    """The name that a config gets for an activation: the first of :data:`ACTIVATIONS`."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)


Join = Callable[[list[Tensor]], Tensor]
Part = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Weight:
    """One of our weights, the tensors that it is made of, and how, both ways."""

    ours: str
    theirs: tuple[str, ...]
    join: Join
    part: Part


def same(ours: str, theirs: str) -> Weight:
    """One tensor, as it is."""
    return Weight(ours, (theirs,), lambda parts: parts[0], lambda whole: [whole])


def transposed(ours: str, theirs: str) -> Weight:
    """One matrix, stored the other way round."""
    return Weight(ours, (theirs,), lambda parts: parts[0].T, lambda whole: [whole.T])


def rows(ours: str, theirs: Sequence[str], sizes: Sequence[int] | None = None) -> Weight:
    """Tensors one below the other, of so many rows each (by default alike)."""

    def part(whole: Tensor) -> Sequence[Tensor]:
        return whole.split(list(sizes)) if sizes else whole.chunk(len(theirs))

    return Weight(ours, tuple(theirs), torch.cat, part)


def stacked(ours: str, theirs: Sequence[str], below: int = 1) -> Weight:
    """Tensors of one shape, side by side along a new first dimension.

    Each stands for ``below`` tensors, one below the other.
    """

    def join(found: list[Tensor]) -> Tensor:
        groups = [found[at : at + below] for at in range(0, len(found), below)]
        return torch.stack([torch.cat(group) for group in groups])

    def part(whole: Tensor) -> Sequence[Tensor]:
        return [piece for each in whole.unbind() for piece in each.chunk(below)]

    return Weight(ours, tuple(theirs), join, part)


def heads_apart(ours: str, theirs: str, heads: int, parts: int = 3) -> Weight:
    """Queries, keys and values that are stored head by head: q, k, v of head 0, then of head 1."""

    def join(found: list[Tensor]) -> Tensor:
        whole = found[0]
        by_head = whole.view(heads, parts, -1, *whole.shape[1:])
        return by_head.transpose(0, 1).reshape(whole.shape)

    def part(whole: Tensor) -> Sequence[Tensor]:
        by_part = whole.reshape(parts, heads, -1, *whole.shape[1:])
        return [by_part.transpose(0, 1).reshape(whole.shape)]

    return Weight(ours, (theirs,), join, part)


def linear(ours: str, *theirs: str, bias: bool = True) -> list[Weight]:
    """Weight and bias of a linear map or a norm, those of several below one another."""
    leaves = ("weight", "bias") if bias else ("weight",)
    return [rows(f"{ours}.{leaf}", [f"{each}.{leaf}" for each in theirs]) for leaf in leaves]


def own_names(spec: ModelSpec) -> list[Weight]:
    """Every weight under our own name, where no checkpoint was published that says another."""
    return [same(name, name) for name, _ in build(spec).named_parameters()]


def by_layer(layers: int, names: Mapping[str, Sequence[str]]) -> list[Weight]:
    """:func:`linear` for each layer: our name in the layer, theirs with ``{}`` for its number."""
    return [
        weight
        for number in range(layers)
        for ours, theirs in names.items()
        for weight in linear(f"layers.{number}.{ours}", *(each.format(number) for each in theirs))
    ]


def within(stack: str, weights: Sequence[Weight]) -> list[Weight]:
    """Weights that are named as they are in their stack, with the stack's name before ours."""
    return [replace(weight, ours=f"stacks.{stack}.{weight.ours}") for weight in weights]


def labels(config: Mapping[str, Any]) -> int:
    """How many labels the head of a ``config.json`` tells apart; two where it does not say."""
    return config.get("num_labels") or len(config.get("id2label") or ()) or 2


def of_tokens(
    config: Mapping[str, Any], head: Head, table: Embedding, own: str, tied: bool = True
) -> tuple[Head, list[Weight]]:
    """A head of tokens by the table's rows, or by a map of its own, which a checkpoint calls
    ``own``: as the config says (``tie_word_embeddings``) or, where it does not, as ``tied`` does.
    """
    if config.get("tie_word_embeddings", tied):
        return replace(head, share=table.share), []
    return replace(head, share=""), [same("head.out.weight", f"{own}.weight")]


@dataclass(frozen=True)
class InGguf:
    """How a family stands in GGUF files, where it is called ``architecture``.

    ``config`` makes its ``config.json`` of the architecture's metadata (keys without the
    architecture's name), ``metadata`` the other way from a spec. ``names`` maps GGUF's names of
    modules to a checkpoint's, ``{}`` for the layer's number. ``read`` and ``written`` change a
    tensor, known by the checkpoint's name, where the format stores it otherwise. ``settings`` are
    tensors of the file, in F32, that are no weights: the architecture's metadata has them as numpy
    arrays under their names.
    """

    architecture: str
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    metadata: Callable[[ModelSpec], dict[str, Any]]
    names: Mapping[str, str]
    read: Callable[[str, Tensor, ModelSpec], Tensor] = lambda name, tensor, spec: tensor
    written: Callable[[str, Tensor, ModelSpec], Tensor] = lambda name, tensor, spec: tensor
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class InLarger:
    """How a family's text stands in a model of more than text.

    ``config`` is where the larger ``config.json`` has the text's, ``prefixes`` may stand before
    all names of its tensors. Tensors whose names begin as one of ``others`` are not read; in words
    they are ``left``.
    """

    config: str
    prefixes: tuple[str, ...]
    others: tuple[str, ...]
    left: str


HeadOf = Callable[[Mapping[str, Any], ModelSpec], tuple[Head, list[Weight]]]


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    ``heads`` are those that it is published with, by what they do (``lm``, ``classify``): the
    head's spec and its weights, from config and spec. ``prefix`` may stand before the names of
    the body in a checkpoint with a head; tensors whose names start as one of ``unread`` does
    belong to heads or are no weights. ``former`` maps endings of names that old checkpoints have
    to today's. ``gguf`` is there for families that the format knows, ``larger`` for those that
    are part of a model of more than text, of which the text is read and written alone. ``writes``
    makes the spec that says what comes next, where that is more than the one that reads a text.
    """

    name: str
    spec: Callable[[Mapping[str, Any]], ModelSpec]
    config: Callable[[ModelSpec], dict[str, Any]]
    weights: Callable[[ModelSpec], list[Weight]]
    heads: Mapping[str, HeadOf] = field(default_factory=dict)
    prefix: str = ""
    unread: tuple[str, ...] = ()
    former: Mapping[str, str] = field(default_factory=dict)
    gguf: InGguf | None = None
    larger: InLarger | None = None
    writes: Callable[[ModelSpec], ModelSpec] = lambda setting: setting


def to_ours(weights: list[Weight], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights from a checkpoint's tensors."""
    return {
        weight.ours: weight.join([theirs[name] for name in weight.theirs]) for weight in weights
    }


def to_theirs(weights: list[Weight], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors from our weights: :func:`to_ours` the other way."""
    return {
        name: part.contiguous()
        for weight in weights
        for name, part in zip(weight.theirs, weight.part(ours[weight.ours]), strict=True)
    }

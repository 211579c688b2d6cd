"""The definition of a model family: specs from configs and weight names, both ways."""

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
"""Activations by their names in published configs."""


def activation_name(activation: Activation) -> str:
    """The name of an activation in configs that we write: the first of :data:`ACTIVATIONS`."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)


Join = Callable[[list[Tensor]], Tensor]
Part = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Weight:
    """One of our weights and the checkpoint's tensors it consists of, with the maps both ways."""

    ours: str
    theirs: tuple[str, ...]
    join: Join
    part: Part


def same(ours: str, theirs: str) -> Weight:
    """Map one tensor as it is."""
    return Weight(ours, (theirs,), lambda parts: parts[0], lambda whole: [whole])


def transposed(ours: str, theirs: str) -> Weight:
    """Map one matrix that is stored transposed."""
    return Weight(ours, (theirs,), lambda parts: parts[0].T, lambda whole: [whole.T])


def rows(ours: str, theirs: Sequence[str], sizes: Sequence[int] | None = None) -> Weight:
    """Concatenate tensors by rows, of these sizes (by default equal)."""

    def part(whole: Tensor) -> Sequence[Tensor]:
        return whole.split(list(sizes)) if sizes else whole.chunk(len(theirs))

    return Weight(ours, tuple(theirs), torch.cat, part)


def stacked(ours: str, theirs: Sequence[str], below: int = 1) -> Weight:
    """Stack tensors of one shape along a new first dimension.

    Each is the concatenation of ``below`` tensors by rows.
    """

    def join(found: list[Tensor]) -> Tensor:
        groups = [found[at : at + below] for at in range(0, len(found), below)]
        return torch.stack([torch.cat(group) for group in groups])

    def part(whole: Tensor) -> Sequence[Tensor]:
        return [piece for each in whole.unbind() for piece in each.chunk(below)]

    return Weight(ours, tuple(theirs), join, part)


def split_by_head(ours: str, theirs: str, heads: int, parts: int = 3) -> Weight:
    """Map a QKV tensor that is stored head by head: q, k, v of head 0, then of head 1."""

    def join(found: list[Tensor]) -> Tensor:
        whole = found[0]
        by_head = whole.view(heads, parts, -1, *whole.shape[1:])
        return by_head.transpose(0, 1).reshape(whole.shape)

    def part(whole: Tensor) -> Sequence[Tensor]:
        by_part = whole.reshape(parts, heads, -1, *whole.shape[1:])
        return [by_part.transpose(0, 1).reshape(whole.shape)]

    return Weight(ours, (theirs,), join, part)


def weight_and_bias(ours: str, *theirs: str, bias: bool = True) -> list[Weight]:
    """Map weight and bias of a linear map or a norm, those of several concatenated by rows."""
    leaves = ("weight", "bias") if bias else ("weight",)
    return [rows(f"{ours}.{leaf}", [f"{each}.{leaf}" for each in theirs]) for leaf in leaves]


def own_names(spec: ModelSpec) -> list[Weight]:
    """Map every weight to its own name, for families without published checkpoints."""
    return [same(name, name) for name, _ in build(spec).named_parameters()]


def by_layer(layers: int, names: Mapping[str, Sequence[str]]) -> list[Weight]:
    """Map weights and biases of each layer; checkpoint names have ``{}`` for its number."""
    return [
        weight
        for number in range(layers)
        for ours, theirs in names.items()
        for weight in weight_and_bias(
            f"layers.{number}.{ours}", *(each.format(number) for each in theirs)
        )
    ]


def in_stack(stack: str, weights: Sequence[Weight]) -> list[Weight]:
    """Put the stack's name in front of our names."""
    return [replace(weight, ours=f"stacks.{stack}.{weight.ours}") for weight in weights]


def label_count(config: Mapping[str, Any]) -> int:
    """Number of labels in a ``config.json``; two by default."""
    return config.get("num_labels") or len(config.get("id2label") or ()) or 2


def tied_or_own(
    config: Mapping[str, Any], head: Head, table: Embedding, own: str, tied: bool = True
) -> tuple[Head, list[Weight]]:
    """Tie a head over the vocabulary to the embedding table, or give it a weight of its own.

    The checkpoint's name of that weight is ``own``. ``tied`` is the default of the config's
    ``tie_word_embeddings``.
    """
    if config.get("tie_word_embeddings", tied):
        return replace(head, share=table.share), []
    return replace(head, share=""), [same("head.out.weight", f"{own}.weight")]


@dataclass(frozen=True)
class GgufForm:
    """The form of a family in GGUF files, where it is called ``architecture``.

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
class TextPart:
    """The place of a family's text model in a multimodal one.

    ``config`` is the text's field in the larger ``config.json``, ``prefixes`` may stand before
    all names of its tensors. Tensors whose names begin with one of ``others`` are not read;
    ``left`` describes them.
    """

    config: str
    prefixes: tuple[str, ...]
    others: tuple[str, ...]
    left: str


BODY = ""
"""The use of a model without a head."""
ENDINGS = {
    "classify": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
    "choice": "ForMultipleChoice",
    BODY: "Model",
}
"""Endings of the names of published classes, by the use of their heads."""


def classes(name: str, language_model: str) -> dict[str, str]:
    """The published classes of a family by use: its name with the ending of each."""
    return {use: f"{name}{ending}" for use, ending in (ENDINGS | {"lm": language_model}).items()}


HeadOf = Callable[[Mapping[str, Any], ModelSpec], tuple[Head, list[Weight]]]


@dataclass(frozen=True)
class Shape:
    """The size of a decoder: its layers, their width and heads, and the tokens that it reads."""

    layers: int
    width: int
    heads: int
    positions: int


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    ``heads`` are the published ones by their use (``lm``, ``classify``): the head's spec and its
    weights, from config and spec; ``classes`` names the published classes by the same uses, as a
    config's ``architectures`` does. ``prefix`` may stand before the names of the body in a
    checkpoint with a head; tensors whose names begin with one of ``unread`` belong to heads or are
    no weights. ``former`` maps endings of names in old checkpoints to today's. ``gguf`` is set for
    families that the format has, ``text_part`` for those that are part of a multimodal model, of
    which the text model is read and written alone. ``generation_spec`` makes the spec for
    generation, where it differs from the one for reading. ``shaped`` gives the fields of a config
    that make a network of a shape, for models that are drawn by rules of scale.
    """

    name: str
    spec: Callable[[Mapping[str, Any]], ModelSpec]
    config: Callable[[ModelSpec], dict[str, Any]]
    weights: Callable[[ModelSpec], list[Weight]]
    heads: Mapping[str, HeadOf] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    unread: tuple[str, ...] = ()
    former: Mapping[str, str] = field(default_factory=dict)
    gguf: GgufForm | None = None
    text_part: TextPart | None = None
    generation_spec: Callable[[ModelSpec], ModelSpec] = lambda setting: setting
    shaped: Callable[[Shape], dict[str, Any]] | None = None


def to_ours(weights: list[Weight], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make our weights of a checkpoint's tensors."""
    return {
        weight.ours: weight.join([theirs[name] for name in weight.theirs]) for weight in weights
    }


def to_theirs(weights: list[Weight], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make a checkpoint's tensors of our weights: :func:`to_ours` the other way."""
    return {
        name: part.contiguous()
        for weight in weights
        for name, part in zip(weight.theirs, weight.part(ours[weight.ours]), strict=True)
    }

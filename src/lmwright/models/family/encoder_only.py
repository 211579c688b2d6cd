"""Encoder-only models of post-norm layers: specs from configs, weight names and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import (
    Activation,
    Attention,
    Dense,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
)
from lmwright.models.family.family import (
    ACTIVATIONS,
    Weight,
    activation_name,
    by_layer,
    in_stack,
    label_count,
    same,
    tied_or_own,
    weight_and_bias,
)
from lmwright.models.files.fields import only

HeadAndWeights = tuple[Head, list[Weight]]


def encoder(
    embedding: Embedding,
    *,
    width: int,
    layers: int,
    heads: int,
    inner: int,
    activation: Activation,
    attention_dropout: float,
    mask: Literal["full", "causal"] = "full",
) -> ModelSpec:
    """The spec of a stack of post-norm layers; norms and dropout are the embedding's."""
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        scale=(width // heads) ** -0.5,
        dropout=attention_dropout,
        mask=mask,
    )
    ops = attention, FeedForward(inner=inner, activation=activation)
    layer = tuple(
        Sublayer(op=op, post_norm=embedding.norm, dropout=embedding.dropout) for op in ops
    )
    stack = Stack(name="encoder", width=width, embedding=embedding, layers=(layer,) * layers)
    return ModelSpec(stacks=(stack,))


def parts(spec: ModelSpec) -> tuple[Stack, Attention, FeedForward, Norm]:
    """The stack of an :func:`encoder`, its layers' ops and its norm; BadInput for another spec."""
    stack = spec.stack("encoder")
    ops = [sublayer.op for sublayer in stack.layers[0]]
    norm = stack.embedding.norm
    match ops:
        case [Attention() as attention, FeedForward() as feed_forward] if norm:
            return stack, attention, feed_forward, norm
    raise BadInput("the spec is no encoder of post-norm layers", "attention, then feed-forward")


def read_encoder(config: Mapping[str, Any], **embedding: Any) -> ModelSpec:
    """Read the spec of a ``config.json``, with the defaults of its published classes.

    ``embedding``: fields of the embedding beside those of its tables. BadInput for a config with
    cross-attention, or whose positions are not added to the tokens.
    """
    only(config, add_cross_attention=False, position_embedding_type="absolute")
    table = Embedding(
        vocabulary=config.get("vocab_size", 30522),
        positions=config.get("max_position_embeddings", 512),
        segments=config.get("type_vocab_size", 2),
        norm=Norm(eps=config.get("layer_norm_eps", 1e-12)),
        dropout=config.get("hidden_dropout_prob", 0.1),
        share="tokens",
        **embedding,
    )
    return encoder(
        table,
        width=config.get("hidden_size", 768),
        layers=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        inner=config.get("intermediate_size", 3072),
        activation=ACTIVATIONS[config.get("hidden_act", "gelu")],
        attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
        mask="causal" if config.get("is_decoder", False) else "full",
    )


def write_encoder(spec: ModelSpec) -> dict[str, Any]:
    """The ``config.json`` of a spec without its type: :func:`read_encoder` the other way."""
    stack, attention, feed_forward, norm = parts(spec)
    return {
        "vocab_size": stack.embedding.vocabulary,
        "hidden_size": stack.width,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": attention.heads,
        "intermediate_size": feed_forward.inner,
        "hidden_act": activation_name(feed_forward.activation),
        "hidden_dropout_prob": stack.embedding.dropout,
        "attention_probs_dropout_prob": attention.dropout,
        "max_position_embeddings": stack.embedding.positions,
        "type_vocab_size": stack.embedding.segments,
        "layer_norm_eps": norm.eps,
        "is_decoder": attention.mask == "causal",
    }


def encoder_weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    layer = "encoder.layer.{}"
    names = {
        "0.op.qkv": [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")],
        "0.op.out": [f"{layer}.attention.output.dense"],
        "0.post_norm": [f"{layer}.attention.output.LayerNorm"],
        "1.op.up": [f"{layer}.intermediate.dense"],
        "1.op.down": [f"{layer}.output.dense"],
        "1.post_norm": [f"{layer}.output.LayerNorm"],
    }
    found = [
        same("embedding.tokens.weight", "embeddings.word_embeddings.weight"),
        same("embedding.positions.weight", "embeddings.position_embeddings.weight"),
        same("embedding.segments.weight", "embeddings.token_type_embeddings.weight"),
        *weight_and_bias("embedding.norm", "embeddings.LayerNorm"),
        *by_layer(len(spec.stack("encoder").layers), names),
    ]
    return in_stack("encoder", found)


def head_dropout(config: Mapping[str, Any], spec: ModelSpec) -> float:
    """The dropout rate before a head's last map."""
    own = config.get("classifier_dropout")
    return float(spec.stack("encoder").embedding.dropout if own is None else own)


def labelled_tokens(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """A token-classification head: a linear map of each token."""
    head = Head(pool="none", outputs=label_count(config), dropout=head_dropout(config, spec))
    return head, weight_and_bias("head.out", "classifier")


def spans(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Start and end logits of an answer span at each token."""
    return Head(pool="none", outputs=2), weight_and_bias("head.out", "qa_outputs")


def pooled(
    spec: ModelSpec, activation: Activation, dense: str, out: str, **head: Any
) -> HeadAndWeights:
    """A dense map of the first token, an activation and a linear map, by these names."""
    mapped = Dense(outputs=spec.stack("encoder").width, activation=activation)
    weights = [*weight_and_bias("head.dense", dense), *weight_and_bias("head.out", out)]
    return Head(pool="first", dense=mapped, **head), weights


SUMMARIES: dict[str, Literal["first", "last", "mean"]] = {
    "first": "first",
    "last": "last",
    "mean": "mean",
    "cls_index": "last",  # the default where no index is given
}
"""Pooling by a config's ``summary_type``."""


def masked_tokens(
    config: Mapping[str, Any],
    spec: ModelSpec,
    activation: Activation,
    dense: str,
    norm: str,
    own: str,
    bias: str,
) -> HeadAndWeights:
    """The masked-language-model head.

    A dense map, an activation and a norm, then the table's rows and ``bias``, or the map ``own``
    with a bias of its own.
    """
    embedding, width = spec.stack("encoder").embedding, spec.stack("encoder").width
    plain = Head(
        pool="none",
        dense=Dense(outputs=width, activation=activation, norm=embedding.norm),
        outputs=embedding.vocabulary,
    )
    head, weights = tied_or_own(config, plain, embedding, own)
    names = [
        *weight_and_bias("head.dense", dense),
        *weight_and_bias("head.dense_norm", norm),
        *weights,
    ]
    return head, [*names, same("head.out.bias", f"{own}.bias" if weights else bias)]

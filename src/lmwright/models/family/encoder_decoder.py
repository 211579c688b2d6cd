"""Encoder-decoder models: specs from configs, weight names and heads.

The families differ in where norms stand and in what is added to the token embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lmwright.models.core.spec import (
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
    in_stack,
    label_count,
    same,
    tied_or_own,
    weight_and_bias,
)

NORM = Norm(eps=1e-5)
"""The norm of all these families; their configs have no field for it."""


def config_of_size(layers: int, width: int, heads: int, inner: int) -> dict[str, Any]:
    """The config fields of an encoder and a decoder of one size."""
    both = (("layers", layers), ("attention_heads", heads), ("ffn_dim", inner))
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in both}
    return {"d_model": width, **sides}


def read_encoder_decoder(
    config: Mapping[str, Any], norms: Literal["pre", "post"], **embedding: Any
) -> ModelSpec:
    """Read the spec of a complete config, with pre-norm or post-norm layers.

    Pre-norm stacks have a final norm. ``embedding``: fields of the embeddings beside those of
    their tokens. Where embeddings are not tied, each side has a table of its own.
    """
    tied = config.get("tie_word_embeddings", True)

    def side(name: str) -> Stack:
        """Build the encoder or the decoder."""
        width, heads = config["d_model"], config[f"{name}_attention_heads"]
        drop = config["dropout"]
        own = Attention(
            heads=heads,
            kv_heads=heads,
            head_width=width // heads,
            scale=(width // heads) ** -0.5,
            dropout=config["attention_dropout"],
            mask="full" if name == "encoder" else "causal",
        )
        feed_forward = FeedForward(
            inner=config[f"{name}_ffn_dim"],
            activation=ACTIVATIONS[config["activation_function"]],
            inner_dropout=bool(config["activation_dropout"]),
        )
        cross = replace(own, mask="full", cross_attends="encoder")
        ops = (own, feed_forward) if name == "encoder" else (own, cross, feed_forward)
        bare = (Sublayer(op=op, dropout=drop) for op in ops)
        layer = tuple(
            replace(each, pre_norm=NORM) if norms == "pre" else replace(each, post_norm=NORM)
            for each in bare
        )
        table = Embedding(
            vocabulary=config["vocab_size"],
            scale=math.sqrt(width) if config["scale_embedding"] else 1.0,
            dropout=drop,
            share="tokens" if tied else {"encoder": "source", "decoder": "target"}[name],
            **embedding,
        )
        return Stack(
            name=name,
            width=width,
            embedding=table,
            layers=(layer,) * config[f"{name}_layers"],
            norm=NORM if norms == "pre" else None,
        )

    return ModelSpec(stacks=(side("encoder"), side("decoder")))


def write_encoder_decoder(spec: ModelSpec) -> dict[str, Any]:
    """Write the config of a spec without its type: :func:`read_encoder_decoder` the other way."""
    tied = len({stack.embedding.share for stack in spec.stacks}) == 1
    found: dict[str, Any] = {"is_encoder_decoder": True, "tie_word_embeddings": tied}
    for stack in spec.stacks:
        attention, feed_forward = stack.layers[0][0].op, stack.layers[0][-1].op
        assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
        embedding = stack.embedding
        found |= {
            "d_model": stack.width,
            "vocab_size": embedding.vocabulary,
            "max_position_embeddings": embedding.positions - embedding.first_position,
            "scale_embedding": embedding.scale != 1.0,
            "dropout": embedding.dropout,
            "attention_dropout": attention.dropout,
            "activation_dropout": embedding.dropout if feed_forward.inner_dropout else 0.0,
            "activation_function": activation_name(feed_forward.activation),
            f"{stack.name}_layers": len(stack.layers),
            f"{stack.name}_attention_heads": attention.heads,
            f"{stack.name}_ffn_dim": feed_forward.inner,
        }
    return found


def encoder_decoder_weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    alone = len({stack.embedding.share for stack in spec.stacks}) > 1
    found = []
    for stack in spec.stacks:
        name, embedding, own = stack.name, stack.embedding, []
        if alone or name == "encoder":
            table = f"{name}.embed_tokens.weight" if alone else "shared.weight"
            own.append(same("embedding.tokens.weight", table))
        if embedding.positions and embedding.sinusoids is None:
            own.append(same("embedding.positions.weight", f"{name}.embed_positions.weight"))
        for norm in ("token_norm", "norm"):
            if getattr(embedding, norm):
                own += weight_and_bias(f"embedding.{norm}", f"{name}.layernorm_embedding")
        if stack.norm:
            own += weight_and_bias("norm", f"{name}.layer_norm")
        for number, layer in enumerate(stack.layers):
            for index, sublayer in enumerate(layer):
                ours, theirs = f"layers.{number}.{index}", f"{name}.layers.{number}"
                own += sublayer_weights(sublayer, ours, theirs)
        found += in_stack(name, own)
    return found


def sublayer_weights(sublayer: Sublayer, ours: str, theirs: str) -> list[Weight]:
    """Weights of one op and its norm."""
    op, norm = sublayer.op, f"{ours}.pre_norm" if sublayer.pre_norm else f"{ours}.post_norm"
    if isinstance(op, FeedForward):
        return [
            *weight_and_bias(f"{ours}.op.up", f"{theirs}.fc1"),
            *weight_and_bias(f"{ours}.op.down", f"{theirs}.fc2"),
            *weight_and_bias(norm, f"{theirs}.final_layer_norm"),
        ]
    assert isinstance(op, Attention)
    name = f"{theirs}.encoder_attn" if op.cross_attends else f"{theirs}.self_attn"
    q, k, v, out = (f"{name}.{part}_proj" for part in ("q", "k", "v", "out"))
    maps = (
        [*weight_and_bias(f"{ours}.op.q", q), *weight_and_bias(f"{ours}.op.kv", k, v)]
        if op.cross_attends
        else weight_and_bias(f"{ours}.op.qkv", q, k, v)
    )
    return [
        *maps,
        *weight_and_bias(f"{ours}.op.out", out),
        *weight_and_bias(norm, f"{name}_layer_norm"),
    ]


def next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head with a bias: the rows of the decoder's table, or a map of its own."""
    head, own = next_token_without_bias(config, spec)
    bias = Weight(
        "head.out.bias",
        ("final_logits_bias",),
        lambda parts: parts[0].flatten(),
        lambda whole: [whole[None]],
    )
    return replace(head, bias=True), [*own, bias]


def next_token_without_bias(
    config: Mapping[str, Any], spec: ModelSpec
) -> tuple[Head, list[Weight]]:
    """Language-model head without a bias."""
    table = spec.stack("decoder").embedding
    head = Head(pool="none", outputs=table.vocabulary, bias=False)
    return tied_or_own(config, head, table, "lm_head")


def last_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Classification head: a dense map of the decoder's last token, tanh, and a linear map.

    Both sides read the document, the decoder shifted by a token (Lewis et al. 2020, section 3.1).
    The published class has dropout before the dense map too.
    """
    head = Head(
        pool="last",
        dense=Dense(outputs=spec.stack("decoder").width, activation="tanh"),
        dropout=config.get("classifier_dropout", 0.0),
        outputs=label_count(config),
    )
    names = (("head.dense", "dense"), ("head.out", "out_proj"))
    return head, [w for o, t in names for w in weight_and_bias(o, f"classification_head.{t}")]


UNREAD = (
    "lm_head.",
    "final_logits_bias",
    "classification_head.",
    "qa_outputs.",
    "shared.",
    "encoder.embed_tokens.",
    "decoder.embed_tokens.",
    "encoder.embed_positions.",
    "decoder.embed_positions.",
)
"""Prefixes of tensors of heads, of duplicates, and of those that follow from the spec; for
``Family.unread``, which does not exclude weights of the body."""

"""BERT (Devlin et al. 2019): encoders of post-norm layers with learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.models.family import Family, Weight, linear, same
from lmwright.models.spec import (
    Attention,
    Bend,
    Dense,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
)

BENDS: dict[str, Bend] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

SIZES = {  # layers, width, heads, inner (Turc et al. 2019; Wang et al. 2020)
    "tiny": (2, 128, 2, 512),
    "mini": (4, 256, 4, 1024),
    "minilm": (6, 384, 12, 1536),
    "small": (4, 512, 8, 2048),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}


def sized(size: str, vocabulary: int = 30522) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads, inner = SIZES[size]
    return spec(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
        }
    )


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json``; what it leaves out is as published for the base size."""
    width, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    drop = config.get("hidden_dropout_prob", 0.1)
    after = Norm(eps=config.get("layer_norm_eps", 1e-12))
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        scale=(width // heads) ** -0.5,
        dropout=config.get("attention_probs_dropout_prob", 0.1),
    )
    feed_forward = FeedForward(
        inner=config.get("intermediate_size", 3072), bend=BENDS[config.get("hidden_act", "gelu")]
    )
    layer = tuple(Sublayer(op=op, after=after, dropout=drop) for op in (attention, feed_forward))
    embedding = Embedding(
        vocabulary=config.get("vocab_size", 30522),
        positions=config.get("max_position_embeddings", 512),
        segments=config.get("type_vocab_size", 2),
        norm=after,
        dropout=drop,
        share="tokens",
    )
    layers = (layer,) * config.get("num_hidden_layers", 12)
    return ModelSpec(
        stacks=(Stack(name="encoder", width=width, embedding=embedding, layers=layers),)
    )


def config(spec: ModelSpec) -> dict[str, Any]:
    """The ``config.json`` of a spec: :func:`spec` the other way."""
    stack = spec.stack("encoder")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    norm = stack.embedding.norm
    if not (isinstance(attention, Attention) and isinstance(feed_forward, FeedForward) and norm):
        raise BadInput("the spec is not one of the BERT family", "attention, then feed-forward")
    return {
        "model_type": "bert",
        "vocab_size": stack.embedding.vocabulary,
        "hidden_size": stack.width,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": attention.heads,
        "intermediate_size": feed_forward.inner,
        "hidden_act": {ours: theirs for theirs, ours in reversed(BENDS.items())}[feed_forward.bend],
        "hidden_dropout_prob": stack.embedding.dropout,
        "attention_probs_dropout_prob": attention.dropout,
        "max_position_embeddings": stack.embedding.positions,
        "type_vocab_size": stack.embedding.segments,
        "layer_norm_eps": norm.eps,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Which tensors each of our weights stands for."""
    found = [
        same("embedding.tokens.weight", "embeddings.word_embeddings.weight"),
        same("embedding.positions.weight", "embeddings.position_embeddings.weight"),
        same("embedding.segments.weight", "embeddings.token_type_embeddings.weight"),
        *linear("embedding.norm", "embeddings.LayerNorm"),
    ]
    for at in range(len(spec.stack("encoder").layers)):
        ours, theirs = f"layers.{at}", f"encoder.layer.{at}"
        parts = [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")]
        found += [
            *linear(f"{ours}.0.op.qkv", *parts),
            *linear(f"{ours}.0.op.out", f"{theirs}.attention.output.dense"),
            *linear(f"{ours}.0.after", f"{theirs}.attention.output.LayerNorm"),
            *linear(f"{ours}.1.op.up", f"{theirs}.intermediate.dense"),
            *linear(f"{ours}.1.op.down", f"{theirs}.output.dense"),
            *linear(f"{ours}.1.after", f"{theirs}.output.LayerNorm"),
        ]
    return [replace(weight, ours=f"stacks.encoder.{weight.ours}") for weight in found]


def classifier(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """The pooler (a dense map of the first token, tanh) and a linear map."""
    width, drop = spec.stack("encoder").width, spec.stack("encoder").embedding.dropout
    head = Head(
        pool="first",
        dense=Dense(outputs=width, bend="tanh"),
        dropout=config.get("classifier_dropout") or drop,
        outputs=config.get("num_labels") or len(config.get("id2label", "12")),
    )
    return head, [*linear("head.dense", "bert.pooler.dense"), *linear("head.out", "classifier")]


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """What the masked tokens are: a dense map, bent and normed, then the table's rows."""
    stack, theirs = spec.stack("encoder"), "cls.predictions"
    bend = BENDS[config.get("hidden_act", "gelu")]
    dense = Dense(outputs=stack.width, bend=bend, norm=stack.embedding.norm)
    head = Head(pool="none", dense=dense, outputs=stack.embedding.vocabulary, share="tokens")
    return head, [
        *linear("head.dense", f"{theirs}.transform.dense"),
        *linear("head.dense_norm", f"{theirs}.transform.LayerNorm"),
        same("head.out.bias", f"{theirs}.bias"),
    ]


FAMILY = Family(
    name="bert",
    spec=spec,
    config=config,
    weights=weights,
    heads={"classify": classifier, "lm": language_model},
    prefix="bert.",
    unread=("embeddings.position_ids", "pooler.", "cls.", "classifier."),
)

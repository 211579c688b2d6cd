"""BART (Lewis et al. 2020): an encoder and a decoder of post-norm layers, learned positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.models.family import Family, Weight, linear, same
from lmwright.models.spec import (
    Attention,
    Bend,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
)

BENDS: dict[str, Bend] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}

SIZES = {  # layers of each side, width, heads, inner (Lewis et al. 2020, section 2.1)
    "base": (6, 768, 12, 3072),
    "large": (12, 1024, 16, 4096),
}
FIRST_POSITION = 2
"""The table's first two rows stand for nothing: its numbers began after the padding's."""


def sized(size: str, vocabulary: int = 50265) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads, inner = SIZES[size]
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", inner))
    }
    return spec({"d_model": width, "vocab_size": vocabulary, **sides})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json``; what it leaves out is as published for the large size."""
    return ModelSpec(stacks=(side(config, "encoder"), side(config, "decoder")))


def side(config: Mapping[str, Any], name: str) -> Stack:
    """The encoder or the decoder."""
    width, norm = config.get("d_model", 1024), Norm(eps=1e-5)
    heads = config.get(f"{name}_attention_heads", 16)
    drop = config.get("dropout", 0.1)
    own = Attention(
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        scale=(width // heads) ** -0.5,
        dropout=config.get("attention_dropout", 0.0),
        sees="all" if name == "encoder" else "causal",
    )
    feed_forward = FeedForward(
        inner=config.get(f"{name}_ffn_dim", 4096),
        bend=BENDS[config.get("activation_function", "gelu")],
        drops=bool(config.get("activation_dropout", 0.0)),
    )
    cross = replace(own, sees="all", reads="encoder")
    ops: list[Attention | FeedForward] = [own, feed_forward]
    if name == "decoder":
        ops.insert(1, cross)
    layer = tuple(Sublayer(op=op, after=norm, dropout=drop) for op in ops)
    embedding = Embedding(
        vocabulary=config.get("vocab_size", 50265),
        scale=math.sqrt(width) if config.get("scale_embedding", False) else 1.0,
        positions=config.get("max_position_embeddings", 1024) + FIRST_POSITION,
        first_position=FIRST_POSITION,
        norm=norm,
        dropout=drop,
        share="tokens",
    )
    layers = (layer,) * config.get(f"{name}_layers", 12)
    return Stack(name=name, width=width, embedding=embedding, layers=layers)


def config(spec: ModelSpec) -> dict[str, Any]:
    """The ``config.json`` of a spec: :func:`spec` the other way."""
    found: dict[str, Any] = {"model_type": "bart", "is_encoder_decoder": True}
    for stack in spec.stacks:
        attention, feed_forward = stack.layers[0][0].op, stack.layers[0][-1].op
        assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
        drop = stack.embedding.dropout
        found |= {
            "d_model": stack.width,
            "vocab_size": stack.embedding.vocabulary,
            "max_position_embeddings": stack.embedding.positions - FIRST_POSITION,
            "scale_embedding": stack.embedding.scale != 1.0,
            "dropout": drop,
            "attention_dropout": attention.dropout,
            "activation_dropout": drop if feed_forward.drops else 0.0,
            "activation_function": {o: t for t, o in BENDS.items()}[feed_forward.bend],
            f"{stack.name}_layers": len(stack.layers),
            f"{stack.name}_attention_heads": attention.heads,
            f"{stack.name}_ffn_dim": feed_forward.inner,
        }
    return found


def weights(spec: ModelSpec) -> list[Weight]:
    """Which tensors each of our weights stands for."""
    found = [same("stacks.encoder.embedding.tokens.weight", "shared.weight")]
    for stack in spec.stacks:
        name = stack.name
        own = [
            same("embedding.positions.weight", f"{name}.embed_positions.weight"),
            *linear("embedding.norm", f"{name}.layernorm_embedding"),
        ]
        for number, layer in enumerate(stack.layers):
            theirs = f"{name}.layers.{number}"
            for place, sublayer in enumerate(layer):
                own += sublayer_weights(sublayer, f"layers.{number}.{place}", theirs)
        found += [replace(weight, ours=f"stacks.{name}.{weight.ours}") for weight in own]
    return found


def sublayer_weights(sublayer: Sublayer, ours: str, theirs: str) -> list[Weight]:
    """The weights of one op and its norm."""
    op = sublayer.op
    if isinstance(op, FeedForward):
        return [
            *linear(f"{ours}.op.up", f"{theirs}.fc1"),
            *linear(f"{ours}.op.down", f"{theirs}.fc2"),
            *linear(f"{ours}.after", f"{theirs}.final_layer_norm"),
        ]
    assert isinstance(op, Attention)
    name = f"{theirs}.encoder_attn" if op.reads else f"{theirs}.self_attn"
    q, k, v, out = (f"{name}.{part}_proj" for part in ("q", "k", "v", "out"))
    maps = (
        [*linear(f"{ours}.op.q", q), *linear(f"{ours}.op.kv", k, v)]
        if op.reads
        else linear(f"{ours}.op.qkv", q, k, v)
    )
    norm = linear(f"{ours}.after", f"{name}_layer_norm")
    return [*maps, *linear(f"{ours}.op.out", out), *norm]


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """The next token, by the table's rows and a bias that was never trained."""
    outputs = spec.stack("decoder").embedding.vocabulary
    bias = Weight(
        "head.out.bias",
        ("final_logits_bias",),
        lambda parts: parts[0].flatten(),
        lambda whole: [whole[None]],
    )
    return Head(pool="none", outputs=outputs, share="tokens"), [bias]


FAMILY = Family(
    name="bart",
    spec=spec,
    config=config,
    weights=weights,
    heads={"lm": language_model},
    prefix="model.",
    unread=(
        "lm_head.",
        "final_logits_bias",
        "classification_head.",
        "encoder.embed_tokens.",
        "decoder.embed_tokens.",
    ),
)

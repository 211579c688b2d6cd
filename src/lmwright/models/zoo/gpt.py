"""GPT (Radford et al. 2018): decoders of post-norm layers with learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.models.core.spec import (
    Activation,
    Attention,
    Embedding,
    FeedForward,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
)
from lmwright.models.family.decoder_only import last_token, tied_next_token
from lmwright.models.family.family import Family, Weight, classes, same, transposed, weight_and_bias

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
"""Its configs' name ``gelu`` is of the tanh approximation."""

SIZES = {"gpt": (12, 768, 12)}  # layers, width, heads (Radford et al. 2018, section 4.1)


def sized(size: str, vocabulary: int = 40478) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads = SIZES[size]
    return spec({"n_layer": layers, "n_embd": width, "n_head": heads, "vocab_size": vocabulary})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the published defaults."""
    width, heads = config.get("n_embd", 768), config.get("n_head", 12)
    drop = config.get("resid_pdrop", 0.1)
    after = Norm(eps=config.get("layer_norm_epsilon", 1e-5))
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        scale=(width // heads) ** -0.5,
        dropout=config.get("attn_pdrop", 0.1),
        mask="causal",
    )
    feed_forward = FeedForward(inner=4 * width, activation=ACTIVATIONS[config.get("afn", "gelu")])
    layer = tuple(
        Sublayer(op=op, post_norm=after, dropout=drop) for op in (attention, feed_forward)
    )
    embedding = Embedding(
        vocabulary=config.get("vocab_size", 40478),
        positions=config.get("n_positions", 512),
        dropout=config.get("embd_pdrop", 0.1),
        share="tokens",
    )
    layers = (layer,) * config.get("n_layer", 12)
    return ModelSpec(
        stacks=(Stack(name="decoder", width=width, embedding=embedding, layers=layers),)
    )


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    stack = spec.stack("decoder")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    after = stack.layers[0][0].post_norm
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward) and after
    return {
        "model_type": "openai-gpt",
        "vocab_size": stack.embedding.vocabulary,
        "n_positions": stack.embedding.positions,
        "n_embd": stack.width,
        "n_layer": len(stack.layers),
        "n_head": attention.heads,
        "afn": {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[
            feed_forward.activation
        ],
        "layer_norm_epsilon": after.eps,
        "resid_pdrop": stack.layers[0][0].dropout,
        "embd_pdrop": stack.embedding.dropout,
        "attn_pdrop": attention.dropout,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors; matrices are stored transposed."""
    found = [
        same("embedding.tokens.weight", "tokens_embed.weight"),
        same("embedding.positions.weight", "positions_embed.weight"),
    ]
    maps = (
        ("0.op.qkv", "attn.c_attn"),
        ("0.op.out", "attn.c_proj"),
        ("1.op.up", "mlp.c_fc"),
        ("1.op.down", "mlp.c_proj"),
    )
    for at in range(len(spec.stack("decoder").layers)):
        for ours, theirs in maps:
            found.append(transposed(f"layers.{at}.{ours}.weight", f"h.{at}.{theirs}.weight"))
            found.append(same(f"layers.{at}.{ours}.bias", f"h.{at}.{theirs}.bias"))
        found += [
            *weight_and_bias(f"layers.{at}.0.post_norm", f"h.{at}.ln_1"),
            *weight_and_bias(f"layers.{at}.1.post_norm", f"h.{at}.ln_2"),
        ]
    return [replace(weight, ours=f"stacks.decoder.{weight.ours}") for weight in found]


MASKS = tuple(f"h.{number}.attn.bias" for number in range(SIZES["gpt"][0]))
"""Masks that older checkpoints hold as if they were weights."""

FAMILY = Family(
    name="openai-gpt",
    classes=classes("OpenAIGPT", "LMHeadModel"),
    spec=spec,
    config=config,
    weights=weights,
    heads={"lm": tied_next_token, "classify": last_token},
    prefix="transformer.",
    unread=("lm_head.", "score.", "position_ids", *MASKS),
)

"""GPT-2 (Radford et al. 2019): decoders of pre-norm layers with learned positions.

The same layers, larger, are GPT-3 (Brown et al. 2020) without its sparse attention, and on
conversations DialoGPT (Zhang et al. 2020).
"""

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
from lmwright.models.family.decoder_only import each_token_apart, last_token, tied_next_token
from lmwright.models.family.family import (
    Family,
    Shape,
    Weight,
    classes,
    rows,
    same,
    transposed,
)
from lmwright.models.files.fields import only

ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}

SIZES = {  # layers, width, heads (Radford et al. 2019, table 2; Brown et al. 2020, table 2.1)
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
    "gpt3-small": (12, 768, 12),
    "gpt3-medium": (24, 1024, 16),
    "gpt3-large": (24, 1536, 16),
    "gpt3-xl": (24, 2048, 24),
    "gpt3-2.7b": (32, 2560, 32),
    "gpt3-6.7b": (32, 4096, 32),
    "gpt3-13b": (40, 5120, 40),  # the table says 5140, but 40 heads of 128
    "gpt3-175b": (96, 12288, 96),
}


def sized(size: str, vocabulary: int = 50257) -> ModelSpec:
    """The spec of a published size; those of GPT-3 read 2,048 tokens, the others 1,024."""
    layers, width, heads = SIZES[size]
    return spec(
        {
            "n_layer": layers,
            "n_embd": width,
            "n_head": heads,
            "vocab_size": vocabulary,
            "n_positions": 2048 if size.startswith("gpt3") else 1024,
        }
    )


def shaped(shape: Shape) -> dict[str, Any]:
    """The fields of a ``config.json`` of a shape."""
    return {
        "n_layer": shape.layers,
        "n_embd": shape.width,
        "n_head": shape.heads,
        "n_positions": shape.positions,
    }


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json``; what it leaves out is as published for the smallest size.
    BadInput for one that reads another network."""
    only(config, add_cross_attention=False)
    width, heads = config.get("n_embd", 768), config.get("n_head", 12)
    norm = Norm(eps=config.get("layer_norm_epsilon", 1e-5))
    drop = config.get("resid_pdrop", 0.1)
    feed_forward = FeedForward(
        inner=config.get("n_inner") or 4 * width,
        activation=ACTIVATIONS[config.get("activation_function", "gelu_new")],
    )
    layers = []
    for number in range(config.get("n_layer", 12)):
        scale = (width // heads) ** -0.5 if config.get("scale_attn_weights", True) else 1.0
        if config.get("scale_attn_by_inverse_layer_idx", False):
            scale /= number + 1
        attention = Attention(
            heads=heads,
            kv_heads=heads,
            head_width=width // heads,
            scale=scale,
            dropout=config.get("attn_pdrop", 0.1),
            mask="causal",
        )
        layers.append(
            tuple(Sublayer(op=op, pre_norm=norm, dropout=drop) for op in (attention, feed_forward))
        )
    embedding = Embedding(
        vocabulary=config.get("vocab_size", 50257),
        positions=config.get("n_positions", 1024),
        dropout=config.get("embd_pdrop", 0.1),
        share="tokens",
    )
    stack = Stack(name="decoder", width=width, embedding=embedding, layers=tuple(layers), norm=norm)
    return ModelSpec(stacks=(stack,))


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    stack = spec.stack("decoder")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward) and stack.norm
    plain = attention.head_width**-0.5
    last = stack.layers[-1][0].op
    return {
        "model_type": "gpt2",
        "vocab_size": stack.embedding.vocabulary,
        "n_positions": stack.embedding.positions,
        "n_embd": stack.width,
        "n_layer": len(stack.layers),
        "n_head": attention.heads,
        "n_inner": feed_forward.inner,
        "activation_function": {o: t for t, o in reversed(ACTIVATIONS.items())}[
            feed_forward.activation
        ],
        "layer_norm_epsilon": stack.norm.eps,
        "resid_pdrop": stack.layers[0][0].dropout,
        "embd_pdrop": stack.embedding.dropout,
        "attn_pdrop": attention.dropout,
        "scale_attn_weights": attention.scale == plain,
        "scale_attn_by_inverse_layer_idx": isinstance(last, Attention)
        and last.scale != attention.scale,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors; matrices are stored transposed."""
    found = [
        same("embedding.tokens.weight", "wte.weight"),
        same("embedding.positions.weight", "wpe.weight"),
        same("norm.weight", "ln_f.weight"),
        same("norm.bias", "ln_f.bias"),
    ]
    maps = (
        ("0.op.qkv", "attn.c_attn"),
        ("0.op.out", "attn.c_proj"),
        ("1.op.up", "mlp.c_fc"),
        ("1.op.down", "mlp.c_proj"),
    )
    norms = (("0.pre_norm", "ln_1"), ("1.pre_norm", "ln_2"))
    for at in range(len(spec.stack("decoder").layers)):
        for ours, theirs in maps:
            found.append(transposed(f"layers.{at}.{ours}.weight", f"h.{at}.{theirs}.weight"))
            found.append(same(f"layers.{at}.{ours}.bias", f"h.{at}.{theirs}.bias"))
        for ours, theirs in norms:
            found += [
                rows(f"layers.{at}.{ours}.{leaf}", [f"h.{at}.{theirs}.{leaf}"])
                for leaf in ("weight", "bias")
            ]
    return [replace(weight, ours=f"stacks.decoder.{weight.ours}") for weight in found]


MASKS = tuple(
    f"h.{number}.attn.{name}"
    for number in range(max(layers for layers, _, _ in SIZES.values()))
    for name in ("bias", "masked_bias")
)
"""Masks that older checkpoints hold as if they were weights."""

FAMILY = Family(
    name="gpt2",
    classes=classes("GPT2", "LMHeadModel"),
    spec=spec,
    config=config,
    weights=weights,
    heads={"lm": tied_next_token, "classify": last_token, "tokens": each_token_apart},
    prefix="transformer.",
    unread=("lm_head.", "score.", "classifier.", *MASKS),
    shaped=shaped,
)

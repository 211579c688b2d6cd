"""PaLM (Chowdhery et al. 2022, section 2): decoders whose two ops read the same norm side by side.

Taken from there: parallel ops, one key and value for all queries, SwiGLU, rotary positions, one
table for input and output, no biases in maps and norms, and from section 5 the logits divided by
the square root of the width. Not said there: which numbers of a head are turned together, for
which its source is followed (Su et al. 2021: neighbours), and a last norm, which is assumed, with
the small number in the norms. No weights were published; folders have our own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.models.core.spec import (
    Attention,
    Branch,
    Embedding,
    FeedForward,
    ModelSpec,
    Norm,
    Parallel,
    Rotary,
    Stack,
    Sublayer,
)
from lmwright.models.family.decoder_only import scaled_next_token
from lmwright.models.family.family import Family, own_names
from lmwright.models.family.rotary import context_length, read_rotary, write_rotary
from lmwright.models.files.old_format import FORMER_NORMS

SIZES = {  # layers, width, heads (Chowdhery et al. 2022, table 1)
    "8b": (32, 4096, 16),
    "62b": (64, 8192, 32),
    "540b": (118, 18432, 48),
}


def sized(size: str, vocabulary: int = 256000) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads = SIZES[size]
    return spec(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "vocab_size": vocabulary,
        }
    )


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a config; what it leaves out is as published for the smallest size."""
    width, head_width = config.get("hidden_size", 4096), config.get("head_dim", 256)
    norm = Norm(eps=config.get("layer_norm_eps", 1e-6), bias=False)
    rotary = read_rotary(config, head_width, layout="interleaved")
    attention = Attention(
        heads=config.get("num_attention_heads", 16),
        kv_heads=1,
        head_width=head_width,
        scale=head_width**-0.5,
        dropout=config.get("attention_dropout", 0.0),
        bias=False,
        out_bias=False,
        mask="causal",
        positions=rotary,
    )
    feed_forward = FeedForward(
        inner=config.get("intermediate_size") or 4 * width,
        activation="silu",
        gated=True,
        bias=False,
    )
    branches = Branch(pre_norm=None, op=attention), Branch(pre_norm=None, op=feed_forward)
    layer = Sublayer(
        op=Parallel(branches=branches), pre_norm=norm, dropout=config.get("hidden_dropout", 0.0)
    )
    stack = Stack(
        name="decoder",
        width=width,
        embedding=Embedding(vocabulary=config.get("vocab_size", 256000), share="tokens"),
        layers=((layer,),) * config.get("num_hidden_layers", 32),
        norm=norm,
    )
    longest = context_length(rotary, config.get("max_position_embeddings", 2048))
    return ModelSpec(stacks=(stack,), context_length=longest)


def config(spec: ModelSpec) -> dict[str, Any]:
    """The config of a spec: :func:`spec` the other way."""
    stack = spec.stack("decoder")
    layer = stack.layers[0][0]
    assert isinstance(layer.op, Parallel) and stack.norm
    attention, feed_forward = (branch.op for branch in layer.op.branches)
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
    assert isinstance(attention.positions, Rotary)
    return {
        "model_type": "palm",
        "vocab_size": stack.embedding.vocabulary,
        "hidden_size": stack.width,
        "intermediate_size": feed_forward.inner,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": attention.heads,
        "head_dim": attention.head_width,
        "max_position_embeddings": spec.context_length,
        "layer_norm_eps": stack.norm.eps,
        "rope_parameters": write_rotary(attention.positions, attention.head_width),
        "attention_dropout": attention.dropout,
        "hidden_dropout": layer.dropout,
    }


FAMILY = Family(
    name="palm",
    spec=spec,
    config=config,
    weights=own_names,
    heads={"lm": scaled_next_token},
    unread=("head.",),
    former=FORMER_NORMS,
)

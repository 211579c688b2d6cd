"""Marian's translators (Junczys-Dowmunt et al. 2018; Tiedemann and Thottingal 2020).

Post-norm sides as those of Vaswani et al. 2017, with sinusoidal positions and a trained bias of
the vocabulary; one vocabulary for both languages, or one for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.models.core.spec import ModelSpec, Sinusoids, Stack
from lmwright.models.family.encoder_decoder import (
    UNREAD,
    config_of_size,
    encoder_decoder_weights,
    next_token,
    read_encoder_decoder,
    write_encoder_decoder,
)
from lmwright.models.family.family import Family, classes

SIZES = {  # layers of each side, width, heads, inner (the published configs)
    "base": (6, 512, 8, 2048),
    "big": (6, 1024, 16, 4096),
}
DEFAULTS = {
    **config_of_size(12, 1024, 16, 4096),
    "vocab_size": 58101,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
}
"""Defaults of config fields."""


def sized(size: str, vocabulary: int = 58101) -> ModelSpec:
    """The spec of a published size: scaled embeddings, 512 tokens, SiLU."""
    more = {"scale_embedding": True, "max_position_embeddings": 512, "activation_function": "silu"}
    return spec({**config_of_size(*SIZES[size]), "vocab_size": vocabulary, **more})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the defaults of its published class."""
    whole = {**DEFAULTS, **config}
    rows, sinusoids = whole["max_position_embeddings"], Sinusoids(interleaved=False)
    plain = read_encoder_decoder(whole, "post", positions=rows, sinusoids=sinusoids)
    if whole.get("share_encoder_decoder_embeddings", True):
        return plain
    encoder, decoder = plain.stacks
    words = whole.get("decoder_vocab_size") or whole["vocab_size"]
    return ModelSpec(stacks=(with_table(encoder, "source"), with_table(decoder, "target", words)))


def with_table(stack: Stack, share: str, vocabulary: int = 0) -> Stack:
    """A side whose table has another key, and another vocabulary if one is given."""
    words = vocabulary or stack.embedding.vocabulary
    return replace(stack, embedding=replace(stack.embedding, share=share, vocabulary=words))


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    source, target = (stack.embedding for stack in spec.stacks)
    return {
        "model_type": "marian",
        **write_encoder_decoder(spec),
        "vocab_size": source.vocabulary,
        "decoder_vocab_size": target.vocabulary,
        "share_encoder_decoder_embeddings": source.share == target.share,
        "tie_word_embeddings": True,
    }


FAMILY = Family(
    name="marian",
    classes=classes("Marian", "MTModel"),
    spec=spec,
    config=config,
    weights=encoder_decoder_weights,
    heads={"lm": next_token},
    prefix="model.",
    unread=UNREAD,
)

"""BlenderBot (Roller et al. 2021): an encoder and a deeper decoder, for conversation.

The larger sizes are pre-norm; the smallest one is post-norm, with norms in its embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.models.core.spec import ModelSpec
from lmwright.models.family.encoder_decoder import (
    NORM,
    UNREAD,
    config_of_size,
    encoder_decoder_weights,
    next_token,
    read_encoder_decoder,
    write_encoder_decoder,
)
from lmwright.models.family.family import Family, classes

SIZES = {  # encoder's layers, decoder's layers, width, heads, inner (Roller et al. 2021, table 2)
    "90m": (8, 8, 512, 16, 2048),
    "400m": (2, 12, 1280, 32, 5120),
    "1b": (2, 12, 2560, 32, 10240),
    "3b": (2, 24, 2560, 32, 10240),
    "9b": (4, 32, 4096, 32, 16384),
}
DEFAULTS = {
    **config_of_size(2, 2560, 32, 10240),
    "decoder_layers": 24,
    "vocab_size": 8008,
    "max_position_embeddings": 128,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
}
"""Defaults of config fields."""
SMALL_DEFAULTS = {
    **DEFAULTS,
    **config_of_size(8, 512, 16, 2048),
    "vocab_size": 50265,
    "max_position_embeddings": 512,
}
"""The same for the smallest size."""


def sized(size: str, vocabulary: int = 0) -> ModelSpec:
    """The spec of a published size."""
    layers, deeper, *parts = SIZES[size]
    found = {**config_of_size(layers, *parts), "decoder_layers": deeper, "scale_embedding": True}
    words = vocabulary or (54944 if size == "90m" else 8008)
    return (small if size == "90m" else spec)({**found, "vocab_size": words})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json`` of the larger sizes; without their words it is 3B."""
    whole = {**DEFAULTS, **config}
    return read_encoder_decoder(whole, "pre", positions=whole["max_position_embeddings"])


def small(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json`` of the smallest size."""
    whole = {**SMALL_DEFAULTS, **config}
    plain = read_encoder_decoder(
        whole, "post", positions=whole["max_position_embeddings"], norm=NORM
    )
    encoder, decoder = plain.stacks
    # The decoder was trained with its norm on the tokens alone, the encoder with it on the sum.
    own = replace(decoder.embedding, norm=None, token_norm=NORM)
    return ModelSpec(stacks=(encoder, replace(decoder, embedding=own)))


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    return {"model_type": "blenderbot", **write_encoder_decoder(spec)}


def small_config(spec: ModelSpec) -> dict[str, Any]:
    """The same for the smallest size."""
    return {"model_type": "blenderbot-small", **write_encoder_decoder(spec)}


FAMILY = Family(
    name="blenderbot",
    classes=classes("Blenderbot", "ForConditionalGeneration"),
    spec=spec,
    config=config,
    weights=encoder_decoder_weights,
    heads={"lm": next_token},
    prefix="model.",
    unread=UNREAD,
)
SMALL = replace(
    FAMILY,
    name="blenderbot-small",
    classes=classes("BlenderbotSmall", "ForConditionalGeneration"),
    spec=small,
    config=small_config,
)

"""BART (Lewis et al. 2020): an encoder and a decoder of post-norm layers, learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.models.core.spec import ModelSpec
from lmwright.models.family.encoder_decoder import (
    NORM,
    UNREAD,
    config_of_size,
    encoder_decoder_weights,
    last_token,
    next_token,
    read_encoder_decoder,
    write_encoder_decoder,
)
from lmwright.models.family.family import Family, classes

SIZES = {  # layers of each side, width, heads, inner (Lewis et al. 2020, section 2.1)
    "base": (6, 768, 12, 3072),
    "large": (12, 1024, 16, 4096),
}
DEFAULTS = {
    **config_of_size(*SIZES["large"]),
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
}
"""Defaults of config fields."""
FIRST_POSITION = 2
"""The table's first two rows stand for nothing: its numbers began after the padding's."""


def sized(size: str, vocabulary: int = 50265) -> ModelSpec:
    """The spec of a published size."""
    return spec({**config_of_size(*SIZES[size]), "vocab_size": vocabulary})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the published defaults of the large size."""
    whole = {**DEFAULTS, **config}
    rows = whole["max_position_embeddings"] + FIRST_POSITION
    return read_encoder_decoder(
        whole, "post", positions=rows, first_position=FIRST_POSITION, norm=NORM
    )


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    return {"model_type": "bart", **write_encoder_decoder(spec)}


FAMILY = Family(
    name="bart",
    classes=classes("Bart", "ForConditionalGeneration"),
    spec=spec,
    config=config,
    weights=encoder_decoder_weights,
    heads={"lm": next_token, "classify": last_token},
    prefix="model.",
    unread=UNREAD,
)

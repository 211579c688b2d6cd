"""mBART (Liu et al. 2020): BART over many languages, pre-norm and with a norm at each side's end.

The languages are tokens of the vocabulary. mBART-50 (Tang et al. 2020) has 25 more of them.
"""

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

SIZES = {  # layers of each side, width, heads, inner, vocabulary (Liu et al. 2020, section 2.2)
    "cc25": (12, 1024, 16, 4096, 250027),
    "50": (12, 1024, 16, 4096, 250054),
}
DEFAULTS = {
    **config_of_size(12, 1024, 16, 4096),
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


def sized(size: str) -> ModelSpec:
    """The spec of a published size; all of them scale their embeddings."""
    *parts, vocabulary = SIZES[size]
    return spec({**config_of_size(*parts), "vocab_size": vocabulary, "scale_embedding": True})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the defaults of its published class."""
    whole = {**DEFAULTS, **config}
    rows = whole["max_position_embeddings"] + FIRST_POSITION
    return read_encoder_decoder(
        whole, "pre", positions=rows, first_position=FIRST_POSITION, norm=NORM
    )


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    return {"model_type": "mbart", **write_encoder_decoder(spec)}


FAMILY = Family(
    name="mbart",
    classes=classes("MBart", "ForConditionalGeneration"),
    spec=spec,
    config=config,
    weights=encoder_decoder_weights,
    heads={"lm": next_token, "classify": last_token},
    prefix="model.",
    unread=UNREAD,
)

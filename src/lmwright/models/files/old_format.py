"""Former names read as today's: of fields, in the first format of model.json, and of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lmwright.core.errors import BadInput

FORMAT = 2
"""The format that is written; a ``model.json`` without a number has the first one."""

FIELDS = {
    "balance": "aux_loss_coef",
    "before": "pre_norm",
    "within": "branch_norm",
    "after": "post_norm",
    "bend": "activation",
    "both_ways": "bidirectional",
    "cap": "logit_softcap",
    "context": "context_length",
    "distance": "max_distance",
    "gives": "outputs_from",
    "late": "softmax_over_top_k",
    "mixed": "scalar_mix",
    "partners": "layout",
    "reads": "cross_attends",
    "sees": "mask",
    "skip": "stochastic_depth",
    "top": "top_k",
    "unsaid": "default_segment",
}
"""Fields of specs and heads by their former names, but for ``drops``, which stood for two."""

VALUES = {
    "kind": {"slopes": "alibi", "buckets": "t5bias", "relative": "transformer_xl"},
    "layout": {"halves": "half_split", "pairs": "interleaved"},
    "mask": {"all": "full", "ordered": "permutation", "ordered_before": "permutation_strict"},
}
"""Values of fields by their former names."""

NORM = re.compile(r"(\.layers\.\d+\.\d+)\.(before|within|after)\.")
"""The norm of a sublayer in a weight's former name."""

FORMER_MAPS = {
    ".up": ".up.weight",
    ".down": ".down.weight",
    ".up_bias": ".up.bias",
    ".down_bias": ".down.bias",
    ".relative.map": ".relative.map.weight",
}
"""Endings of weights of experts and of Transformer-XL, once no ``Linear`` of their own."""

FORMER_NORMS = {f".{old}.weight": f".{FIELDS[old]}.weight" for old in ("before", "within", "after")}
"""Endings of published tensors under our own names; for ``Family.former``."""


def is_old(description: Mapping[str, Any], where: str) -> bool:
    """True for a description in the first format; BadInput for one of a later format than ours."""
    number = description.get("format", 1)
    if number not in (1, FORMAT):
        raise BadInput(
            f"{where}: the format {number!r}",
            f"a format up to {FORMAT}",
            "read it with the version of lmwright that wrote it, or a later one",
        )
    return bool(number == 1)


def current_part(value: Any) -> Any:
    """Convert the JSON value of a spec or a head, or of any part of them, to today's format."""
    if isinstance(value, list | tuple):
        return [current_part(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    drops = "inner_dropout" if value.get("op") == "feed_forward" else "output_dropout"
    fields = {**FIELDS, "drops": drops}
    renamed = {fields.get(name, str(name)): each for name, each in value.items()}
    return {name: current_value(name, each) for name, each in renamed.items()}


def current_value(field: str, value: Any) -> Any:
    """Convert the value of a field, named as today."""
    if isinstance(value, str):
        return VALUES.get(field, {}).get(value, value)
    return current_part(value)


def current_weight(name: str) -> str:
    """The name that a weight has today."""
    for old, new in FORMER_MAPS.items():
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return NORM.sub(lambda found: f"{found[1]}.{FIELDS[found[2]]}.", name)

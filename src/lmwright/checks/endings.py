"""Check ``endings``: every answer ends with a token at which the served model stops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmwright.core.finding import Finding
from lmwright.train.check import MANY, Trial, learnt_tokens

NAME = "endings"
MERGED = 1
"""Tokens that an answer may lack for having merged with what stands before it."""


def check(trial: Trial) -> Iterator[Finding]:
    """Answers without a learnt end, and ends that stand within answers."""
    if not trial.documents:
        return
    stops = np.array(trial.model.stop_ids, dtype=np.int64)
    if not len(stops):
        yield Finding(
            NAME,
            "stop",
            "the model has no token that ends an answer",
            cure="take a start whose tokenizer or generation_config.json names an end token",
        )
        return
    unended, early = [], []
    for place, item in enumerate(trial.documents):
        mask, ends = learnt_tokens(item), np.isin(item.tokens, stops)
        if not item.cut and not (len(item.tokens) > item.first and ends[-1] and mask[-1]):
            unended.append(place)
        short = trial.answer_size(place) - (len(item.tokens) - item.first) > MERGED
        if (ends & mask)[item.first : -1].any() or (short and not item.cut):
            early.append(place)
    for places, fact, cure in (
        (
            unended,
            "end with no token at which the served model stops, so it would never learn to",
            "name a template whose turns end with a token of the model, or the token in "
            "generation_config.json",
        ),
        (
            early,
            "hold a token at which the served model stops before their end",
            "take another token for it, or leave it out of generation_config.json",
        ),
    ):
        if places:
            share = len(places) / len(trial.documents)
            yield Finding(
                NAME,
                "stop" if share > MANY else "warn",
                f"{len(places):,} of {len(trial.documents):,} answers ({share:.1%}) {fact}",
                trial.ids[places[0]],
                cure,
            )

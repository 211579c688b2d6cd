"""Task complexity: how much words alone tell, and how long the texts are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lmwright.plan.advise import Draft, Reason
from lmwright.plan.seen import Seen
from lmwright.train.finetune import Train

EASY = 0.95
"""Accuracy of words alone from which on a network has little to add."""
STEP, MOST = 16, 512
"""``max_tokens`` is a multiple of the one, and at most the other."""
QUANTILE = 0.95


def rule(seen: Seen, draft: Draft) -> Iterator[Reason]:
    """The length to be read; what words alone tell, and what follows of it."""
    long = int(np.quantile(seen.lengths, QUANTILE)) if len(seen.lengths) else 0
    yield Reason(
        "complexity",
        "measured",
        f"texts have {int(np.median(seen.lengths)):,} tokens in the middle, and {QUANTILE:.0%} of "
        f"them at most {long:,}",
    )
    if not seen.writes and draft.way == "tune":
        tokens = min(MOST, max(STEP, STEP * math.ceil((long + 2) / STEP)))
        if tokens != Train.max_tokens:
            draft.train["max_tokens"] = tokens
    found = seen.learnable
    if found is None:
        return
    share, common = found.right / found.rows, found.common / found.rows
    yield Reason(
        "complexity",
        "measured",
        f"words alone (TF-IDF, logistic regression) tell {share:.3f} [{found.low:.3f}, "
        f"{found.high:.3f}] of {found.rows:,} rows right that they have not seen; the commonest "
        f"label is {common:.3f}",
    )
    if found.low > EASY and draft.way == "tune":
        yield Reason(
            "complexity",
            "rule",
            "words tell nearly all: promote the baseline tfidf unless the network beats it "
            "(promote.model: tfidf)",
            "Wang and Manning 2012",
        )
    elif found.low <= common:
        yield Reason(
            "complexity",
            "rule",
            "words tell no more than the commonest label: look whether the labels can be told from "
            "these texts at all (lmwright run finds likely label errors)",
            "Northcutt et al. 2021",
        )

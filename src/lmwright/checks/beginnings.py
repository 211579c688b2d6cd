"""Check ``beginnings``: a document begins once, in training as in service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lmwright.core.finding import Finding
from lmwright.train.check import Trial

NAME = "beginnings"


def check(trial: Trial) -> Iterator[Finding]:
    """Start tokens that stand twice, or are missing where the tokenizer puts them."""
    if trial.known_head and not trial.documents:
        pairs = [(each.tokens, f"{each.document:032x}") for each in trial.examples]
    else:
        pairs = [(item.ids, row) for item, row in zip(trial.documents, trial.ids, strict=False)]
    roles = trial.model.tokenizer.roles
    own = trial.model.tokenizer.encode([""], 64)[0]
    begin = next((n for n in (*roles.get("bos", ()), *roles.get("cls", ()))), None)
    if begin is None or not pairs:
        return
    twice = [row for ids, row in pairs if count(ids, begin) > 1]
    none = [row for ids, row in pairs if count(ids, begin) == 0] if begin in own else []
    if twice:
        yield Finding(
            NAME,
            "stop",
            f"{len(twice):,} of {len(pairs):,} documents begin with the start token twice",
            twice[0],
            "take bos_token out of the chat template, or out of the prompt",
        )
    if none:
        yield Finding(
            NAME,
            "stop",
            f"{len(none):,} of {len(pairs):,} documents lack the start token that the tokenizer "
            "puts before every text",
            none[0],
            "put {{ bos_token }} at the beginning of the chat template",
        )


def count(ids: Sequence[int] | np.ndarray, begin: int) -> int:
    """The number of start tokens at the beginning of a document."""
    other = np.flatnonzero(np.asarray(ids) != begin)
    return int(other[0]) if len(other) else len(ids)

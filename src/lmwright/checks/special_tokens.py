"""Check ``special tokens``: turn markers that the model knows, and texts that spell them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from lmwright.core.columns import Row
from lmwright.core.finding import Finding
from lmwright.models.turn_markers import likenesses, turn_tokens, untrained_direction
from lmwright.train.check import Trial

NAME = "special tokens"
MARKER = re.compile(r"<\|[\w ]+\|>|<(?:start|end)_of_\w+>|\[/?[A-Z_]{3,}\]|</?s>")
"""What turn markers of published chat templates look like."""
TYPED = 200
"""Rows whose texts are looked through."""


def check(trial: Trial) -> Iterator[Finding]:
    """Markers that are no token or were never learnt; special tokens that people typed."""
    if trial.documents and trial.model.generation.template and "messages" in trial.given[0]:
        yield from markers(trial)
    yield from typed(trial)


def markers(trial: Trial) -> Iterator[Finding]:
    """The turn markers of the chat template."""
    source, tokenizer = trial.model.generation.template, trial.model.tokenizer
    for text in dict.fromkeys(MARKER.findall(source)):
        if text not in tokenizer.control and (size := len(tokenizer.ids(text))) > 1:
            yield Finding(
                NAME,
                "warn",
                f"the template's {text} is no token of the model: it becomes {size} tokens",
                cure="name a template for the tokens of this model, or template: plain",
            )
    direction = untrained_direction(trial.model)
    if direction is None:
        return
    known = likenesses(trial.model, turn_tokens(trial.model, source), direction)
    unlearnt = {name: value for name, value in known.items() if value >= direction.limit}
    if unlearnt:
        told = ", ".join(f"{name} ({value:.2f})" for name, value in unlearnt.items())
        yield Finding(
            NAME,
            "warn",
            f"the start has never learnt {told}: these rows are like those of tokens that never "
            f"occur (from {direction.limit:.2f} on)",
            cure="template: plain, or tune: full so that their embeddings learn",
        )
    elif known:
        yield Finding(NAME, "note", f"the start has learnt {', '.join(known)}")


def typed(trial: Trial) -> Iterator[Finding]:
    """Texts that spell special tokens, which must stay text."""
    control = trial.model.tokenizer.control
    if not control:
        return
    pattern = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))))
    rows, taken, first = 0, 0, ""
    for row, id in zip(trial.given[:TYPED], trial.ids, strict=False):
        spelt = [each for each in texts_of(row) if pattern.search(each)]
        if spelt:
            rows, first = rows + 1, first or id
            special = np.array(list(control.values()))
            taken += any(np.isin(trial.model.tokenizer.ids(each), special).any() for each in spelt)
    if taken:
        yield Finding(
            NAME,
            "stop",
            f"{taken:,} texts spell a special token and are read as that token",
            first,
            "take these texts out: the tokenizer cannot tell them from its own tokens",
        )
    elif rows:
        yield Finding(
            NAME, "note", f"{rows:,} rows spell a special token, which is read as text", first
        )


def texts_of(value: Row | Any) -> Iterator[str]:
    """All texts of a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_of(each)

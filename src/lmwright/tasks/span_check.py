"""Check ``tagging``: labelled spans come back from the tags of their tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmwright.core.finding import Finding
from lmwright.train.check import MANY, Trial

NAME = "tagging"
TRIED = 300
"""Rows whose spans are made tags and spans again."""


def check(trial: Trial) -> Iterator[Finding]:
    """Spans that the right tags do not give back: no model could ever find them."""
    task = trial.task_model.task
    targets, decoded = getattr(task, "targets", None), getattr(task, "decoded", None)
    tags: tuple[str, ...] = getattr(task, "tags", ())
    if targets is None or decoded is None or "spans" not in trial.rows.column_names:
        return
    count, lost, shown, rows = 0, 0, "", trial.given[:TRIED]
    items = trial.task_model.prepare(trial.model, trial.asked[:TRIED])
    for row, item, id in zip(rows, items, trial.ids, strict=False):
        offsets = np.asarray(item.offsets)
        certain = np.eye(len(tags))[np.maximum(targets(row["spans"], offsets), 0)]
        found = {(each["start"], each["end"], each["label"]) for each in decoded(certain, offsets)}
        gold = {(each["start"], each["end"], each["label"]) for each in row["spans"]}
        count += len(gold)
        if missing := gold - found:
            lost += len(missing)
            shown = shown or id
    if lost:
        share = lost / count
        yield Finding(
            NAME,
            "stop" if share > MANY else "warn",
            f"{lost:,} of {count:,} spans ({share:.1%}) do not come back from their tags: their "
            "edges lie within tokens",
            shown,
            "begin and end spans at the edges of words, or take a tokenizer with smaller tokens",
        )
    elif count:
        yield Finding(NAME, "note", f"{count:,} spans come back from the tags of their tokens")

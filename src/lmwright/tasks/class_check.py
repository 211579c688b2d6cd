"""Check ``classes``: every class in every split, and the head's classes in the table's order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from scipy.optimize import linear_sum_assignment

from lmwright.core.finding import Finding
from lmwright.train.check import Trial

NAME = "classes"
TRIED = 200
"""Rows that a published head answers."""


def check(trial: Trial) -> Iterator[Finding]:
    """Classes that a split lacks, and a published head whose classes are permuted."""
    task = trial.task_model.task
    names: tuple[str, ...] = getattr(task, "labels", ()) or ()
    if not names or "label" not in trial.rows.column_names:
        return
    splits = {"rows to learn from": trial.rows, "validation rows": trial.validation}
    for where, table in splits.items():
        yield from lacking(where, table, names)
    if trial.known_head:
        yield from permuted(trial, names)


def lacking(where: str, table: pa.Table, names: tuple[str, ...]) -> Iterator[Finding]:
    """Classes of which some rows have none."""
    counts = Counter(map(str, table.column("label").to_pylist()))
    if none := [name for name in names if not counts[name]]:
        more = f" and {len(none) - 5} more" if len(none) > 5 else ""
        yield Finding(
            NAME,
            "warn",
            f"{len(none)} of {len(names)} labels have none of the {table.num_rows:,} {where}: "
            f"{', '.join(none[:5])}{more}",
            cure="give more rows of them, raise validation_rows, or leave these labels out",
        )


def permuted(trial: Trial, names: tuple[str, ...]) -> Iterator[Finding]:
    """A published head that is right with its outputs in another order, and wrong as they are."""
    rows = trial.sample.slice(0, TRIED)
    items = trial.task_model.prepare(trial.model, rows.select(["text"]).to_pylist())
    found = trial.model.logits(items).argmax(-1)
    place = {name: n for n, name in enumerate(names)}
    right = np.array([place[str(each)] for each in rows.column("label").to_pylist()])
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (found, right), 1)
    outputs, classes = linear_sum_assignment(-table)
    as_is, best = np.trace(table) / len(right), table[outputs, classes].sum() / len(right)
    if as_is < best / 2:
        order = ", ".join(
            f"{names[a]} for {names[b]}" for a, b in zip(outputs, classes, strict=True) if a != b
        )
        yield Finding(
            NAME,
            "stop",
            f"the start's head is right on {as_is:.0%} of {len(right)} rows, and on {best:.0%} "
            f"with its outputs in another order ({order}): its labels are not named as the table's",
            rows.column("id")[int(np.flatnonzero(found != right)[0])].as_py(),
            "map the table's labels with values: {label: {...}}, or mend the start's id2label",
        )
    else:
        yield Finding(
            NAME, "note", f"the start's head is right on {as_is:.0%} of {len(right)} rows untuned"
        )

"""Data availability: rows, rows of the rarest label, balance, repeats."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from lmwright.data.guess import source_settings
from lmwright.metrics.intervals import wilson
from lmwright.plan.advice.output import WRITER
from lmwright.plan.advise import Draft, Reason
from lmwright.plan.foreign import recipe_name
from lmwright.plan.seen import Seen
from lmwright.text.few_shot import TEMPLATE, FewShotPrompt

FEWEST = 60
"""Rows of which a run can both learn and judge."""
EPOCHS = ((200, 20), (1000, 10), (5000, 4))
"""Below so many rows so many epochs."""
UNEVEN = 10
"""Times as many rows of the commonest label as of the rarest at which both should count alike."""
MOST_CHARACTERS = 300
"""Of a text that is shown in a prompt."""
ALIKE = 0.1
"""Share of rows that are near another one at which it is worth a word."""
SCATTERED = 4
"""Rows of a label, in the middle of all, of which a head learns little."""
MANY_LABELS = 50
"""Labels from which on the nearest rows answer as well as a head."""


def rule(seen: Seen, draft: Draft) -> Iterator[Reason]:
    """Prompting under some dozens of rows, retrieval for many labels of few rows, more epochs for
    few rows."""
    rows, counts = seen.rows, sorted(seen.labels.values())
    yield Reason("data", "measured", f"{rows:,} rows with different inputs")
    if counts:
        yield Reason(
            "data",
            "measured",
            f"{len(counts)} labels; rows of the rarest {counts[0]:,}, of the commonest "
            f"{counts[-1]:,}",
        )
    if seen.alike >= ALIKE:
        yield Reason(
            "data",
            "measured",
            f"{seen.alike:.0%} of the sampled rows are near another one: they teach less than "
            "they count, and the stage data leaves them out",
        )
    if rows < FEWEST:
        spread = wilson(0.8 * rows / 2, rows / 2)
        *shown, (asked, _) = seen.shown
        prompt = FewShotPrompt("", TEMPLATE, MOST_CHARACTERS).render(shown, asked)
        draft.way = "prompt"
        draft.command = f"lmwright generate {WRITER} {shlex.quote(prompt)} --temperature 0"
        draft.then = f"lmwright advise {shlex.quote(str(seen.table))}, with {FEWEST} rows or more"
        yield Reason(
            "data",
            "measured",
            f"judged by half of the rows, an accuracy of 0.8 would be known as {spread.low:.2f} to "
            f"{spread.high:.2f}: no training could be told from chance",
        )
        yield Reason(
            "data",
            "rule",
            f"under {FEWEST} rows show some of them to a language model (the last text in the "
            "prompt is asked), and collect more",
            "Brown et al. 2020; Le Scao and Rush 2021",
        )
        return
    if len(counts) >= MANY_LABELS and counts[len(counts) // 2] < SCATTERED:
        draft.way = "retrieve"
        draft.instead = lookup(seen)
        draft.command = f"lmwright run {draft.instead['name']}.yaml"
        draft.then = f"lmwright search {draft.instead['name']} {shlex.quote(seen.shown[0][0])}"
        yield Reason(
            "data",
            "rule",
            f"{len(counts)} labels, half of them with fewer than {SCATTERED} rows: look for the "
            "nearest row, and take its label",
            "Vinyals et al. 2016; Snell et al. 2017",
        )
        return
    epochs = next((each for most, each in EPOCHS if rows < most), None)
    if epochs is not None:
        draft.train["epochs"] = epochs
        yield Reason(
            "data",
            "rule",
            f"few rows want more epochs: {epochs} of them",
            "Mosbach et al. 2021",
        )
    if counts and counts[-1] >= UNEVEN * counts[0]:
        draft.train["resample"] = "over"
        yield Reason(
            "data",
            "rule",
            "labels are uneven: rows of rare ones stand several times",
            "Buda et al. 2018",
        )


def lookup(seen: Seen) -> dict[str, Any]:
    """A recipe that indexes the texts, each with its label beside it."""
    source = source_settings(seen.guess.source, str(seen.table.absolute()))
    columns, told = dict(source.pop("columns", {})), seen.task.strata
    source["side"] = {**source.get("side", {}), "group": columns.pop(told, told)}
    if columns:
        source["columns"] = columns
    return {
        "name": recipe_name(seen.table),
        "task": "text-generation",
        "stages": {
            "data": {"sources": [source]},
            "index": {"column": "text", "keep": ["source", "group"]},
        },
    }

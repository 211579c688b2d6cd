"""Compute: what the machine is, and whether the training fits it."""

from __future__ import annotations

from collections.abc import Iterator

from lmwright.plan.advise import Draft, Reason
from lmwright.plan.seen import Seen
from lmwright.train.finetune import Train

HOUR = 3600.0
FEWEST_ROWS = 500


def rule(seen: Seen, draft: Draft) -> Iterator[Reason]:
    """Parts of a step where memory is short, fewer rows where an hour would not do."""
    yield Reason(
        "compute",
        "measured",
        f"{seen.threads} threads of CPU class {seen.cpu}, {seen.memory / 1e9:.1f} GB of memory",
    )
    if draft.way != "tune" or not draft.forecasts:
        return
    draft.budget = seen.forecast(draft.train)
    seconds, memory = draft.budget["seconds"], draft.budget["memory"]
    yield Reason(
        "compute",
        "measured",
        f"forecast by a probe: {seconds[1] / 60:.1f} minutes of training, "
        f"{memory[1] / 1e9:.1f} GB of memory",
    )
    if memory[1] > seen.memory and "micro_batch" not in draft.train:
        draft.train["micro_batch"] = max(1, Train.batch // 8)
        draft.budget = seen.forecast(draft.train)
        yield Reason(
            "compute",
            "rule",
            f"memory is short: a step is read in parts of {draft.train['micro_batch']} rows, with "
            "the same gradient",
            "gradient accumulation",
        )
    if seconds[1] > HOUR:
        rows = max(FEWEST_ROWS, int(seen.rows * HOUR / seconds[1]) // 100 * 100)
        if rows < seen.rows:
            draft.train["rows"] = rows
            draft.budget = seen.forecast(draft.train)
            yield Reason(
                "compute",
                "rule",
                f"more than an hour: begin with {rows:,} rows, each label keeping its share, and "
                "look what they reach",
                "Kaplan et al. 2020: loss falls as a power of the rows",
            )

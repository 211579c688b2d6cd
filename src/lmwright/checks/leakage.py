"""Check ``leakage``: test rows whose text stands in the rows to learn from."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from lmwright.checks.special_tokens import texts_of
from lmwright.core.finding import Finding
from lmwright.core.task import role_columns
from lmwright.data.corpus import read_split, splits_of
from lmwright.train.check import SOME, Trial

NAME = "leakage"
GRAM = 13
"""Words in a row that two texts share by chance only where they quote the same (Brown et al. 2020,
appendix C)."""
LOOKED = 500
"""Rows of each test set that are looked up."""
LEARNT = 20_000
"""Rows to learn from whose words are kept."""
SHARE = 0.8
"""Share of a test row's runs from which on it is held to be known."""


def check(trial: Trial) -> Iterator[Finding]:
    """Test sets, each against the rows to learn from."""
    tests = [name for name in splits_of(trial.data) if name.startswith("test")]
    if not tests:
        return
    names = [each.name for each in role_columns(trial.task_model.task, "input")]
    known = {name: set[int]() for name in names}
    for row in trial.rows.slice(0, LEARNT).select(names).to_pylist():
        for name in names:
            known[name].update(grams(row[name]))
    for test in tests:
        rows = read_split(trial.data, test, LOOKED, trial.seed)
        found = [
            row["id"]
            for row in rows.select([*names, "id"]).to_pylist()
            if all(is_known(grams(row[name]), known[name]) for name in names)
        ]
        if found:
            share = len(found) / rows.num_rows
            yield Finding(
                NAME,
                "warn" if share > SOME else "note",
                f"{len(found):,} of {rows.num_rows:,} rows of {test} ({share:.1%}) stand, nearly "
                f"word for word, in rows to learn from",
                found[0],
                "name what these rows have in common as side: {cluster: …}, or leave them out",
            )


def is_known(own: Set[int], known: Set[int]) -> bool:
    """Whether most of a text's runs of words are known."""
    return len(own & known) >= SHARE * len(own)


def grams(value: Any) -> set[int]:
    """The hashes of a value's runs of words; of a shorter text that of all its words."""
    words = " ".join(texts_of(value)).casefold().split()
    return {hash(tuple(words[n : n + GRAM])) for n in range(max(1, len(words) - GRAM + 1))}

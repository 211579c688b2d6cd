"""Rows with equal inputs that are judgements of one row become one, whatever the parts on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmwright.core.columns import Row
from lmwright.core.task import MergingTask
from lmwright.data import merge
from lmwright.data.dedup import NearDuplicates
from lmwright.data.gather import Gathered, Limits, Rejected, gather
from lmwright.data.merge import merge_judgements
from lmwright.data.sources import Source
from lmwright.tasks.text_classification import TextClassification

WORDS = [*"abcdefghijkl"]


@dataclass(frozen=True, kw_only=True)
class Judged(TextClassification):
    """The label that most annotators gave, the first of those that are alike."""

    def merged(self, rows: Sequence[Row]) -> Row:
        labels = [row["label"] for row in rows]
        return {**rows[0], "label": max(labels, key=lambda label: labels.count(label))}


def table(folder: Path, rows: list[dict[str, Any]], name: str = "one", **settings: Any) -> Source:
    """A source of these rows."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(name=name, path=str(path), side={"annotator": "who"}, **settings)


def gathered(folder: Path, *sources: Source) -> Gathered:
    """The sources as the first pass leaves them."""
    near = NearDuplicates(folder / "near", 0.7)
    rejected = Rejected(folder / "rejected.jsonl")
    limits = Limits(characters=1000, faulty=0.0)
    try:
        say = lambda done, name: None  # noqa: E731
        return gather(Judged(), sources, folder, near, rejected, limits, 0, say)
    finally:
        near.close()
        rejected.close()


def rows_in(found: Gathered) -> list[dict[str, Any]]:
    """All rows as they are staged."""
    return pa.Table.from_batches([batch for _, batch in found.staged()]).to_pylist()


def judgements() -> list[dict[str, Any]]:
    """Three annotators, of whom the third sees every second text, in mixed order."""
    rng = np.random.default_rng(3)
    rows = [
        {"text": f"{word} {other}", "label": str(rng.choice(["a", "b"])), "who": who}
        for word in WORDS
        for other in WORDS
        for who in ("x", "y", "z")
        if who != "z" or word < "g"
    ]
    rows.append({"text": "nobody else saw this", "label": "a", "who": "x"})
    return [rows[place] for place in rng.permutation(len(rows))]


def test_an_ordinary_task_merges_nothing() -> None:
    assert not isinstance(TextClassification(), MergingTask)
    assert isinstance(Judged(), MergingTask)


@pytest.mark.parametrize("characters", [1 << 30, 1], ids=["one part", "many parts"])
def test_every_text_stands_once_with_what_most_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    monkeypatch.setattr(merge, "PART_CHARACTERS", characters)
    given = judgements()
    source = table(tmp_path, given)
    before = gathered(tmp_path, source)
    after, first = merge_judgements(Judged(), before, [source], tmp_path)
    rows = rows_in(after)
    assert len(rows) == len(first) == len(after.keys) == len({row["text"] for row in given})
    assert after.merged == len(given) - len(rows)
    for row, place in zip(rows, first, strict=True):
        same = [each for each in given if each["text"] == row["text"]]
        labels = [each["label"] for each in same]
        assert labels.count(row["label"]) == max(map(labels.count, labels))
        assert row["annotator"] == ", ".join(dict.fromkeys(each["who"] for each in same))
        assert given[place] == same[0]
    assert np.array_equal(after.keys, before.keys[first])
    names = [after.names[code] for code in after.strata]
    assert names == [row["label"] for row in rows]
    left = sorted(path.name for path in tmp_path.glob("part-*"))
    assert not left


def test_a_merged_row_has_the_id_that_it_would_have_alone(tmp_path: Path) -> None:
    given = [
        {"text": "the same text", "label": label, "who": who}
        for label, who in (("b", "x"), ("a", "y"), ("a", "z"))
    ]
    (tmp_path / "alone").mkdir()
    source = table(tmp_path, given)
    after, _ = merge_judgements(Judged(), gathered(tmp_path, source), [source], tmp_path)
    alone = gathered(tmp_path / "alone", table(tmp_path / "alone", given[1:2]))
    assert np.array_equal(after.ids, alone.ids)
    assert np.array_equal(after.targets, alone.targets)


def test_sources_are_not_mixed_and_repeated_ids_are_no_judgements(tmp_path: Path) -> None:
    rows = [{"text": "the same text", "label": "a", "who": "x", "n": 1}]
    rows.append({**rows[0], "label": "b"})
    one = table(tmp_path, rows, "one", id="n")
    two = replace(table(tmp_path, rows, "two"), id="")
    before = gathered(tmp_path, one, two)
    after, _ = merge_judgements(Judged(), before, [one, two], tmp_path)
    assert after.merged == 1
    assert after.sources.tolist() == [0, 0, 1]
    assert after.repeats_id.tolist() == [False, True, False]

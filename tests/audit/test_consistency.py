"""The round trip of translations, on real pairs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmwright.assets import asset_file
from lmwright.audit.audit import Audit
from lmwright.audit.check import FAILED, INCONCLUSIVE, PASSED, Subject, Verdict
from lmwright.audit.consistency import Consistency
from lmwright.baselines.memory import Memory
from lmwright.baselines.same import Same
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.evals.predictions import judge
from lmwright.metrics.calibration import Calibration
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.translation import Translation

TASK = Translation()


@pytest.fixture(scope="module")
def both() -> pa.Table:
    """English to French and back."""
    pairs = pq.read_table(asset_file("asset:debian-translations/debian-translations.parquet"))
    there = [
        {
            "text": row["english"],
            "translation": row["other"],
            "source_language": "en",
            "target_language": "fr",
        }
        for row in pairs.to_pylist()
        if row["language"] == "fr"
    ][:120]
    back = [TASK.returned(row, row["translation"]) for row in there]
    rows = [{**row, "id": f"{n:032x}"} for n, row in enumerate([*there, *back])]
    return pa.Table.from_pylist(rows)


def verdict(model: Any, rows: pa.Table, **settings: Any) -> Verdict:
    found = judge(TASK, rows, answer_all(model, rows.to_pylist()), Calibration())
    subject = Subject(TASK, model, Calibration(), rows, found, {}, 0, 400, 200, 0.95, 0)
    return Consistency(**settings).judge(subject)


def test_the_way_back_has_the_languages_and_texts_exchanged(both: pa.Table) -> None:
    row = both.to_pylist()[0]
    back = TASK.returned(row, "Du texte.")
    assert back == {
        "text": "Du texte.",
        "translation": row["text"],
        "source_language": "fr",
        "target_language": "en",
    }


def test_a_model_that_knows_both_directions_comes_back(both: pa.Table) -> None:
    found = verdict(Memory.fit(TASK, both, 0), both)
    assert found.verdict == PASSED, found.reason
    assert found.figures["round_trip"]["estimate"] < 0.02
    assert found.figures["by_stratum"].keys() == {"en-fr", "fr-en"}
    assert found.figures["copied"] == 0


def test_a_model_without_the_way_back_fails(both: pa.Table) -> None:
    there = both.slice(0, 120)
    found = verdict(Memory.fit(TASK, there, 0), there)
    assert found.verdict == FAILED
    assert found.figures["round_trip"]["estimate"] > 0.9


def test_a_model_that_writes_nothing_fails_unasked(both: pa.Table) -> None:
    there = both.slice(0, 120)
    other = pa.Table.from_pylist([{**both.to_pylist()[0], "target_language": "it"}])
    found = verdict(Memory.fit(TASK, other, 0), there)
    assert found.verdict == FAILED and found.figures["unwritten"] == 120


def test_a_copy_comes_back_whole_and_is_counted(both: pa.Table) -> None:
    found = verdict(Same.fit(TASK, both, 0), both)
    assert found.verdict == PASSED
    assert found.figures["copied"] == len(both)


def test_few_rows_leave_it_open(both: pa.Table) -> None:
    found = verdict(Same.fit(TASK, both, 0), both.slice(0, 30))
    assert found.verdict == INCONCLUSIVE and "too few rows" in found.reason


def test_a_task_without_a_way_back_is_refused() -> None:
    stage = Audit(checks=("consistency",))
    stage.check_task(TASK)
    with pytest.raises(BadInput, match="summarization has no way back"):
        stage.check_task(Summarization())
    with pytest.raises(BadInput, match=r"audit\.limits\.consistency\.loss"):
        Audit(checks=("consistency",), limits={"consistency": {"loss": "chrff"}}).check_task(TASK)
